import hashlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grokking.errors import BadInput
from grokking.roles import initial_weights
from grokking.runs import _table, run_spec
from grokking.tasks import Position, Table, binary_operation, split, task, tasks

SIZES = (2, 3, 4, 5, 7, 12, 13, 31, 59, 97)
PRIMES = tuple(p for p in SIZES if p not in (4, 12))

BINARY = {
    "mod_add": ("+", 0, SIZES, lambda x, y, p: (x + y) % p),
    "mod_sub": ("-", 0, SIZES, lambda x, y, p: (x - y) % p),
    "mod_mul": ("*", 0, SIZES, lambda x, y, p: (x * y) % p),
    "mod_div": ("/", 1, PRIMES, lambda x, y, p: x * pow(y, -1, p) % p),
    "mod_exp": ("**", 0, SIZES, lambda x, y, p: pow(x, y, p)),
    "gcd": ("gcd", 0, SIZES, lambda x, y, p: math.gcd(x, y)),
}
BUILT_IN = {
    **{name: {"p": 7} for name in ("mod_add", "mod_sub", "mod_mul", "mod_div", "mod_exp", "gcd")},
    "parity": {"bits": 5},
}


@pytest.fixture
def scratch_registry():
    """Whatever the test registers is gone afterwards."""
    before = dict(tasks._entries)
    yield tasks
    _table.cache_clear()
    tasks._entries.clear()
    tasks._entries.update(before)


def built_in_tables():
    return [pytest.param(tasks[name].make(**options), id=name) for name, options in BUILT_IN.items()]


def layout_errors(table):
    """What the declared positions say that the tokens do not bear out."""
    values = {}  # operand → its value in every example
    errors = [] if len(table.positions) == table.tokens.shape[1] else ["one position for each column"]
    for column, place in zip(table.tokens.T, table.positions, strict=False):
        if not (place.first <= column.min() and column.max() < place.first + place.count):
            errors.append(f"tokens outside {place}")
        if place.operand is None and place.count != 1:
            errors.append(f"{place} is constant, but has {place.count} values")
        if place.operand is not None:
            value = column - place.first
            if not np.array_equal(values.setdefault(place.operand, value), value):
                errors.append(f"{place} disagrees with another position of its operand")
    return errors


# --- labels and tokens ----------------------------------------------------------------------------------------------


def test_every_built_in_task_is_covered_here():
    shipped = {name for name, entry in tasks.items() if entry.make.__module__.startswith("grokking.")}
    assert shipped == set(BUILT_IN) == {*BINARY, "parity"}


@pytest.mark.parametrize(("name", "p"), [(name, p) for name, (_, _, sizes, _) in BINARY.items() for p in sizes])
def test_binary_tables_hold_every_pair_once_with_pythons_own_answer(name, p):
    symbol, first_y, _, answer = BINARY[name]
    table = tasks[name].make(p=p)
    expected = [([x, p, y, p + 1], answer(x, y, p)) for x in range(p) for y in range(first_y, p)]
    assert [(tokens.tolist(), label) for tokens, label in zip(table.tokens, table.labels, strict=True)] == expected
    assert table.vocabulary == (*map(str, range(p)), symbol, "=")
    assert table.classes == p


@pytest.mark.parametrize("bits", [2, 3, 5, 10, 16])
def test_parity_holds_every_string_of_bits_once_with_the_parity_of_its_ones(bits):
    table = tasks["parity"].make(bits=bits)
    assert table.tokens.shape == (2**bits, bits + 1)
    for number in {*range(min(2**bits, 70)), 2**bits // 3, 2**bits - 1}:
        assert "".join(map(str, table.tokens[number, :-1])) == f"{number:0{bits}b}"
        assert table.labels[number] == number.bit_count() % 2
    assert table.labels.sum() == 2 ** (bits - 1)
    assert np.all(table.tokens[:, -1] == 2)
    assert (table.vocabulary, table.classes) == (("0", "1", "="), 2)


@pytest.mark.parametrize("table", built_in_tables())
def test_tokens_and_labels_are_integers_that_the_vocabulary_and_the_classes_cover(table):
    assert table.tokens.dtype == table.labels.dtype == np.int64
    assert table.labels.shape == table.tokens.shape[:1]
    assert set(np.unique(table.tokens)) == set(range(len(table.vocabulary)))
    assert table.labels.min() >= 0
    assert table.labels.max() < table.classes <= len(table.vocabulary)
    assert len(set(table.vocabulary)) == len(table.vocabulary)


def test_an_example_reads_as_a_person_would_write_it():
    assert tasks["mod_add"].make(p=7).show(3 * 7 + 5) == "3 + 5 = 1"
    assert tasks["mod_div"].make(p=7).show(1 * 6 + 2) == "1 / 3 = 5"
    assert tasks["parity"].make(bits=3).show(0b110) == "1 1 0 = 0"


# --- declared positions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", built_in_tables())
def test_declared_positions_tell_the_truth(table):
    assert layout_errors(table) == []


@pytest.mark.parametrize("table", built_in_tables())
def test_operands_are_free_of_each_other_and_take_every_declared_value(table):
    counts = {place.operand: place.count for place in table.positions if place.operand is not None}
    assert len(np.unique(table.tokens, axis=0)) == len(table.tokens) == math.prod(counts.values())
    for column, place in zip(table.tokens.T, table.positions, strict=True):
        assert len(np.unique(column)) == place.count


@pytest.mark.parametrize(
    "positions",
    [
        (Position(0, 0, 3), Position(1, 0, 2), Position(0, 0, 3)),  # y has 3 values
        (Position(0, 0, 3), Position(None, 0, 1), Position(0, 0, 3)),  # y is no constant
        (Position(0, 0, 3), Position(0, 0, 3), Position(0, 0, 3)),  # y is not x
        (Position(0, 0, 3), Position(1, 1, 3), Position(0, 0, 3)),  # y starts at 0
        (Position(0, 0, 3), Position(1, 0, 3)),  # a position is missing
    ],
)
def test_the_check_of_positions_sees_a_lie(positions):
    x, y = (grid.ravel() for grid in np.meshgrid(range(3), range(3), indexing="ij"))
    honest = (Position(0, 0, 3), Position(1, 0, 3), Position(0, 0, 3))
    columns = np.stack([x, y, x], axis=1)
    assert layout_errors(Table(columns, x, ("0", "1", "2"), 3, honest)) == []
    assert layout_errors(SimpleNamespace(tokens=columns, positions=positions)) != []


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [-7, 0, 1, 4, 9, 15, 49, 91, 100])
def test_division_refuses_a_modulus_that_is_not_prime_and_names_it(p):
    with pytest.raises(BadInput, match=rf"p = {p} is not a prime.*allowed: primes"):
        tasks["mod_div"].make(p=p)


@pytest.mark.parametrize("p", [-3, 0, 1])
@pytest.mark.parametrize("name", BINARY)
def test_fewer_than_two_numbers_are_refused(name, p):
    with pytest.raises(BadInput, match=rf"p = {p}.*allowed: "):
        tasks[name].make(p=p)


@pytest.mark.parametrize("bits", [-1, 0, 1, 17, 64])
def test_parity_refuses_a_number_of_bits_that_gives_no_table(bits):
    with pytest.raises(BadInput, match=rf"bits = {bits}.*allowed: 2 to 16"):
        tasks["parity"].make(bits=bits)


@pytest.mark.parametrize(
    "operation",
    [lambda x, y: x + y, lambda x, y: x - y, lambda x, y: 0, lambda x, y: x[:-1]],
    ids=["too large", "negative", "one label for all", "one label short"],
)
def test_an_operation_that_leaves_the_classes_is_refused(operation):
    with pytest.raises(BadInput, match=r"operation '∘' must return one label in 0 … 4 for every example"):
        binary_operation(5, operation)


# --- the split ------------------------------------------------------------------------------------------------------


@given(
    examples=st.integers(2, 400),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=100)
def test_a_split_is_a_partition_with_the_rounded_number_of_training_rows(examples, fraction, seed):
    expected = round(examples * fraction)
    assume(0 < expected < examples)
    training, validation = split(examples, fraction, seed)
    assert len(training) == expected
    assert sorted([*training.tolist(), *validation.tolist()]) == list(range(examples))


@given(examples=st.integers(40, 400), fraction=st.floats(0.2, 0.8), seed=st.integers(0, 2**31 - 2))
@settings(max_examples=50)
def test_a_split_is_the_same_for_the_same_seed_and_another_for_another(examples, fraction, seed):
    training, validation = split(examples, fraction, seed)
    again = split(examples, fraction, seed)
    assert np.array_equal(again[0], training)
    assert np.array_equal(again[1], validation)
    assert set(split(examples, fraction, seed + 1)[0]) != set(training)


@pytest.mark.parametrize(("examples", "rows"), [(1, 0), (3, 2), (5, 2), (7, 4)])
def test_half_a_row_is_rounded_as_python_rounds(examples, rows):
    if rows:
        assert len(split(examples, 0.5, 0)[0]) == rows == round(examples * 0.5)
    else:
        with pytest.raises(BadInput, match="leaves 0 of 1"):
            split(examples, 0.5, 0)


def test_training_rows_of_a_smaller_fraction_are_among_those_of_a_larger_one():
    small, large = split(3481, 0.3, 5)[0], split(3481, 0.5, 5)[0]
    assert np.array_equal(large[: len(small)], small)


@pytest.mark.parametrize("fraction", [-0.5, 0.0, 1e-4, 0.99999, 1.0, 1.5])
def test_a_fraction_that_leaves_one_side_empty_is_refused_and_named(fraction):
    with pytest.raises(BadInput, match=rf"train_fraction = {fraction} leaves .* of 49 examples"):
        split(49, fraction, 0)


@pytest.mark.parametrize("fraction", [-0.5, 0.0, 1e-4, 0.99999, 1.0, math.nan, math.inf])
def test_a_run_with_a_fraction_that_leaves_one_side_empty_is_refused(fraction):
    with pytest.raises(BadInput, match=rf"train_fraction = {fraction}"):
        run_spec({"task.p": 7, "train_fraction": fraction}, 0)


# --- the registry ---------------------------------------------------------------------------------------------------


def everything_a_task_decides():
    """Hash of table, split, initial weights and run_id of every built-in task, made anew."""
    found = {}
    _table.cache_clear()
    for name, options in BUILT_IN.items():
        table = tasks[name].make(**options)
        spec = run_spec({"task.name": name, **{f"task.{k}": v for k, v in options.items()}, "model.width": 16}, 3)
        weights = initial_weights(spec.setting.model(), spec.seed)
        arrays = [table.tokens, table.labels, *split(len(table.tokens), 0.4, 3), *(w.numpy() for w in weights.values())]
        parts = [array.tobytes() for array in arrays]
        words = [spec.run_id, *table.vocabulary, *weights, str(table.positions), str(table.classes)]
        found[name] = hashlib.sha256(b"|".join([*parts, "|".join(words).encode()])).hexdigest()
    return found


def test_a_new_task_changes_no_other_tasks_table_split_weights_or_run_id(scratch_registry):
    before = everything_a_task_decides()

    @task
    def mod_cubic(p: int = 7) -> Table:
        """x³ + y (mod p)."""
        return binary_operation(p, lambda x, y: (x**3 + y) % p, "cubic")

    @task
    def all_new_words(n: int = 5) -> Table:
        """A table of its own layout and vocabulary."""
        numbers = np.arange(n)
        return Table(numbers[:, None], numbers, tuple("abcde"), n, (Position(0, 0, n),))

    table = scratch_registry["mod_cubic"].make(p=5)
    assert table.labels.tolist() == [(x**3 + y) % 5 for x in range(5) for y in range(5)]
    assert run_spec({"task.name": "mod_cubic"}, 0).setting.table().classes == 7
    assert everything_a_task_decides() == before


def test_registering_a_name_twice_is_refused_and_the_first_one_stays(scratch_registry):
    first = scratch_registry["mod_add"].make

    def mod_add(p: int = 5) -> Table:
        """Another addition."""
        raise AssertionError("never built")

    with pytest.raises(BadInput, match=r"task 'mod_add' is registered already, in grokking\.tasks\.modular"):
        task(mod_add)
    assert scratch_registry["mod_add"].make is first


def test_a_task_needs_a_docstring_and_scalar_defaults(scratch_registry):
    def nameless(p: int = 5) -> Table: ...

    def demanding(p: int) -> Table:
        """No default."""

    def odd(p: tuple[int, ...] = (5, 7)) -> Table:
        """A default that no command line can set."""

    for make, sentence in ((nameless, "no docstring"), (demanding, "'p'.*needs a default"), (odd, r"'p'.*\(5, 7\)")):
        with pytest.raises(BadInput, match=sentence):
            task(make)
        assert make.__name__ not in scratch_registry


@pytest.mark.parametrize(
    ("typed", "meant"), [("mod_ad", "mod_add"), ("mod_dvi", "mod_div"), ("party", "parity"), ("gdc", "gcd")]
)
def test_an_unknown_task_is_refused_with_close_names_and_all_allowed_ones(typed, meant):
    with pytest.raises(BadInput, match=rf"unknown task '{typed}'; did you mean {meant}.*allowed: .*parity") as error:
        tasks[typed]
    assert all(name in str(error.value) for name in BUILT_IN)


def test_a_name_like_no_other_is_refused_without_a_guess():
    with pytest.raises(BadInput, match=r"unknown task 'zzzzzz'; allowed: ") as error:
        run_spec({"task.name": "zzzzzz"}, 0)
    assert "did you mean" not in str(error.value)


def test_the_registry_lists_each_task_with_its_defaults_and_first_line():
    assert "mod_add" in tasks
    assert "mod_ad" not in tasks
    assert len(tasks) == len(list(tasks))
    assert tasks["mod_sub"].summary == "x - y (mod p)."
    assert tasks["parity"].defaults == {"bits": 10}
