import hashlib
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sympy.combinatorics import AlternatingGroup, CyclicGroup, DihedralGroup, Permutation, SymmetricGroup
from sympy.combinatorics.group_constructs import DirectProduct

from grokking.errors import BadInput
from grokking.roles import initial_weights
from grokking.runs import run_spec
from grokking.setting import _table, check_versions
from grokking.tasks import Position, Table, binary_operation, split, task, tasks
from grokking.tasks.groups import members

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
POLYNOMIALS = {
    "mod_x2y2": lambda x, y: x**2 + y**2,
    "mod_x2xyy2": lambda x, y: x**2 + x * y + y**2,
    "mod_x2xyy2x": lambda x, y: x**2 + x * y + y**2 + x,
    "mod_x3xy": lambda x, y: x**3 + x * y,
    "mod_x3xy2y": lambda x, y: x**3 + x * y**2 + y,
    "poly": lambda x, y: x**2 + x * y + y**2,
}
BINARY |= {name: ("∘", 0, SIZES, lambda x, y, p, f=f: f(x, y) % p) for name, f in POLYNOMIALS.items()}
BINARY["mod_cond"] = ("/-", 0, PRIMES[1:], lambda x, y, p: (x * pow(y, -1, p) if y % 2 else x - y) % p)
BUILT_IN = {
    **{name: {"p": 7} for name in BINARY},
    "parity": {"bits": 5},
    "sparse_parity": {"bits": 12, "relevant": 3, "examples": 200},
    "mod_sum": {"p": 5, "terms": 3},
    "random_labels": {"p": 7},
    "mix": {"p": 7},
    "group": {"of": "S3xC2"},
    "s5": {},
    "s5conj": {},
    "s5aba": {},
    "text": {"context": 4, "examples": 3000},
}
WITHOUT_EVERY_COMBINATION = ("sparse_parity", "mix", "text")  # of what their operands can be


@pytest.fixture
def scratch_registry():
    """Whatever the test registers is gone afterwards."""
    before = dict(tasks._entries)
    yield tasks
    _table.cache_clear()
    tasks._entries.clear()
    tasks._entries.update(before)


def built_in_tables(*but):
    own = {name: options for name, options in BUILT_IN.items() if name not in but}
    return [pytest.param(tasks[name].make(**options), id=name) for name, options in own.items()]


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
    assert shipped == set(BUILT_IN)


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
    used = {*np.unique(table.tokens), *np.unique(table.labels)}
    assert used <= set(range(len(table.vocabulary)))
    assert len(used) == len(table.vocabulary) or table.separator == ""  # a rare character may be in no example
    assert table.labels.min() >= 0
    assert table.labels.max() < table.classes <= len(table.vocabulary)
    assert len(set(table.vocabulary)) == len(table.vocabulary)


def test_an_example_reads_as_a_person_would_write_it():
    assert tasks["mod_add"].make(p=7).show(3 * 7 + 5) == "3 + 5 = 1"
    assert tasks["mod_div"].make(p=7).show(1 * 6 + 2) == "1 / 3 = 5"
    assert tasks["parity"].make(bits=3).show(0b110) == "1 1 0 = 0"


@pytest.mark.parametrize(("p", "terms"), [(5, 1), (3, 4), (17, 3), (2, 10)])
def test_sums_of_several_numbers(p, terms):
    table = tasks["mod_sum"].make(p=p, terms=terms)
    operands = table.tokens[:, ::2]
    assert operands.tolist() == [list(x) for x in itertools.product(range(p), repeat=terms)]
    assert table.labels.tolist() == [sum(x) % p for x in itertools.product(range(p), repeat=terms)]


def test_sparse_parity_is_that_of_its_few_bits_and_of_no_others():
    table = tasks["sparse_parity"].make(bits=12, relevant=3, examples=500)
    strings = table.tokens[:, :-1]
    assert len(np.unique(strings, axis=0)) == 500
    fits = [
        places
        for count in range(13)
        for places in itertools.combinations(range(12), count)
        if np.array_equal(strings[:, list(places)].sum(1) % 2, table.labels)
    ]
    assert [len(places) for places in fits] == [3]
    again = tasks["sparse_parity"].make(bits=12, relevant=3, examples=500)
    assert np.array_equal(again.tokens, table.tokens)
    assert np.array_equal(again.labels, table.labels)


# --- groups -----------------------------------------------------------------------------------------------------------

GROUPS = {
    "S3": lambda: SymmetricGroup(3),
    "S4": lambda: SymmetricGroup(4),
    "S5": lambda: SymmetricGroup(5),
    "A4": lambda: AlternatingGroup(4),
    "A5": lambda: AlternatingGroup(5),
    "D5": lambda: DihedralGroup(5),
    "D8": lambda: DihedralGroup(8),
    "C7": lambda: CyclicGroup(7),
    "S3xC2": lambda: DirectProduct(SymmetricGroup(3), CyclicGroup(2)),
    "C2×C2xC3": lambda: DirectProduct(CyclicGroup(2), CyclicGroup(2), CyclicGroup(3)),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_has_sympys_elements(name):
    ours = [tuple(element) for element in members(name).tolist()]
    theirs = [tuple(element.array_form) for element in GROUPS[name]().elements]
    assert sorted(ours) == sorted(theirs)
    assert ours[0] == tuple(range(len(ours[0])))


@pytest.mark.parametrize("name", ["S3xC2", "A4", "D5", "S5"])
@pytest.mark.parametrize(
    ("operation", "answer"),
    [("product", lambda x, y: x * y), ("conjugate", lambda x, y: x * y * ~x), ("aba", lambda x, y: x * y * x)],
)
def test_products_are_sympys(name, operation, answer):
    table = tasks["group"].make(of=name, operation=operation)
    elements = [Permutation(element) for element in members(name).tolist()]
    draws = np.random.default_rng(0)
    for row in draws.choice(len(table.labels), 200):
        x, _, y, _ = table.tokens[row]
        assert elements[table.labels[row]] == answer(elements[x], elements[y])


def test_the_groups_of_power_et_al_have_their_rows_and_names():
    for name, operation in (("s5", "product"), ("s5conj", "conjugate"), ("s5aba", "aba")):
        table = tasks[name].make()
        assert table.tokens.shape == (14_400, 4)
        assert np.array_equal(table.labels, tasks["group"].make(of="S5", operation=operation).labels)
    assert tasks["s5"].make().show(120 + 1) == "(3 4) · (3 4) = e"


@pytest.mark.parametrize("of", ["", "S", "S0", "Z5", "S7", "D2", "A1", "C1", "S3x", "S3 C2", "C9999", "S3xS5xC2"])
def test_what_is_no_group_or_too_large_is_refused(of):
    with pytest.raises(BadInput, match=rf"of = {of!r}.*allowed: "):
        tasks["group"].make(of=of)


# --- polynomials ------------------------------------------------------------------------------------------------------


def formulas():
    variables = st.sampled_from("xyz")
    numbers = st.integers(0, 10**12).map(str)
    return st.recursive(
        variables | numbers,
        lambda parts: (
            st.tuples(parts, st.sampled_from(["+", "-", "*"]), parts).map(lambda t: f"({t[0]}{t[1]}{t[2]})")
            | parts.map(lambda part: f"(-{part})")
            | st.tuples(parts, st.integers(0, 9)).map(lambda t: f"({t[0]}**{t[1]})")
        ),
        max_leaves=8,
    )


@given(formula=formulas().filter(lambda text: len(text) <= 200), p=st.sampled_from([2, 4, 7, 11]))
@settings(max_examples=60, deadline=None)
def test_a_formula_means_what_it_means_in_python(formula, p):
    table = tasks["poly"].make(formula=formula, p=p)
    for row in range(0, len(table.labels), 7):
        operands = dict(zip("xyz", table.tokens[row, ::2].tolist(), strict=False))
        assert table.labels[row] == eval(formula, {"__builtins__": {}}, {"z": 0, **operands}) % p


@pytest.mark.parametrize(
    "formula",
    [
        *("", "x+", "x/y", "x//y", "x%y", "x**y", "x**-1", "x**1.0", "1.5*x", "a+b", "x.real", "f(x)", "x if y else 1"),
        *("__import__('os').system('true')", "x==y", "[x]", "x and y", "True*x", "x**True", "lambda: x", "x\ny", "'x'"),
    ],
)
def test_any_other_formula_is_refused(formula):
    with pytest.raises(BadInput, match=r"formula = .*allowed: sums, differences, products"):
        tasks["poly"].make(formula=formula, p=5)


def test_a_formula_has_the_variables_up_to_its_last():
    assert [len(tasks["poly"].make(formula=f, p=3).labels) for f in ("2", "x", "y", "z", "x+w")] == [9, 9, 9, 27, 81]
    with pytest.raises(BadInput, match="201 characters; allowed: up to 200"):
        tasks["poly"].make(formula="x" + "+y" * 100, p=3)
    with pytest.raises(BadInput, match=r"at most 1,000,000 examples"):
        tasks["poly"].make(formula="x+w", p=59)


# --- mixtures, controls, text -----------------------------------------------------------------------------------------


def test_a_mixture_holds_the_examples_of_its_parts_told_apart_by_their_token():
    table = tasks["mix"].make(of="mod_add, mod_div,gcd", p=7)
    lines = [table.show(row) for row in range(len(table.labels))]
    parts = [tasks[name].make(p=7) for name in ("mod_add", "mod_div", "gcd")]
    assert lines == [part.show(row) for part in parts for row in range(len(part.labels))]
    assert len(set(map(tuple, table.tokens.tolist()))) == len(lines) == 49 + 42 + 49
    assert tasks["mix"].make(of="poly,mod_x2y2", p=5).vocabulary[5:] == ("poly", "mod_x2y2", "=")


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ("mod_add", "two different tasks"),
        ("mod_add,mod_add", "two different tasks"),
        ("mod_add,parity", "'parity' is no operation modulo p"),
        ("mod_add,mix", "'mix' is no operation modulo p"),
        ("mod_add,mod_sum", "'mod_sum' is no operation on two numbers"),
        ("mod_add,nope", "unknown task 'nope'"),
    ],
)
def test_what_cannot_be_mixed_is_refused(of, message):
    with pytest.raises(BadInput, match=message):
        tasks["mix"].make(of=of, p=5)


def test_random_labels_are_the_same_ones_each_time_and_evenly_spread():
    table = tasks["random_labels"].make(p=97)
    assert np.array_equal(table.labels, tasks["random_labels"].make(p=97).labels)
    counts = np.bincount(table.labels, minlength=97)
    assert abs(((counts - 97) ** 2 / 97).sum() - 96) < 4 * (2 * 96) ** 0.5  # chi squared


def test_text_is_windows_of_a_file_that_do_not_overlap(tmp_path):
    (tmp_path / "book.txt").write_text("".join(chr(0x4E00 + k) for k in range(100)), encoding="utf-8")
    table = tasks["text"].make(file=str(tmp_path / "book.txt"), context=3, examples=20)
    for row in range(20):
        window = table.show(row)
        first = ord(window[0])
        assert window == "".join(chr(first + k) for k in range(4))
        assert (first - 0x4E00) % 4 == 0
    assert len(np.unique(table.tokens[:, 0])) == 20
    with pytest.raises(
        BadInput,
        match=r"task.examples = 26, but the text of '.*book.txt' has 25 windows of 3 \+ 1 characters; allowed: 2 to 25",
    ):
        tasks["text"].make(file=str(tmp_path / "book.txt"), context=3, examples=26)


def test_the_text_that_is_read_is_part_of_what_a_run_is(tmp_path):
    book = tmp_path / "book.txt"
    settings = {"task.name": f"text:{book}", "task.context": 2, "task.examples": 10}
    with pytest.raises(BadInput, match="cannot be read as text"):
        run_spec(settings, 0)
    book.write_text("to be or not to be, that is the question")
    before = run_spec(settings, 0)
    book.write_text("to be or not to be, that is a question.")
    after = run_spec(settings, 0)
    assert before.run_id != after.run_id
    read = ["".join(sorted({word for word in spec.setting.table().vocabulary})) for spec in (before, after)]
    assert ("." in read[0], "." in read[1]) == (False, True)
    assert before.row() | {"run_id": 0} == after.row() | {"run_id": 0}
    with pytest.raises(BadInput, match="'text', or what it reads, has changed since this sweep began"):
        check_versions(before.setting)


@pytest.mark.parametrize(
    ("tokens", "labels", "message"),
    [
        (
            np.zeros((4, 1)),
            np.zeros(4, int),
            r"tokens are float64 \[4, 1\]; a table has integers \[example, position\]",
        ),
        ([[0], [1]], np.zeros(2, int), r"tokens are list; a table has integers"),
        (np.zeros((2, 1), int), np.zeros(2), r"labels are float64 \[2\]; a table has integers \[example\]"),
        (np.zeros((0, 1), int), np.zeros(0, int), r"tokens are int64 \[0, 1\]; .* one example at least"),
    ],
)
def test_a_table_of_something_else_than_integers_is_refused(tokens, labels, message):
    with pytest.raises(BadInput, match=message):
        Table(tokens, labels, ("a", "b"), 2, (Position(None, 0, 1),))


@pytest.mark.parametrize(
    ("file", "message"),
    [("/dev/zero", "'/dev/zero' is no regular file"), ("/no/such", "cannot be read as text: .*No such file")],
)
def test_a_text_that_is_no_file_is_refused(file, message):
    with pytest.raises(BadInput, match=message):
        run_spec({"task.name": "text", "task.file": file}, 0)


def test_a_task_that_draws_is_refused_before_any_work(scratch_registry):
    draws = iter(range(10))

    @task
    def restless(p: int = 7):
        """x + y, and one more each time."""
        at = next(draws)
        return binary_operation(p, lambda x, y: (x + y + at) % p)

    with pytest.raises(BadInput, match="task 'restless', made twice, has other examples or labels"):
        run_spec({"task.name": "restless"}, 0)


HASHES = {  # of small tables: whoever changes one of them changes what is stored under one run_id
    **{
        "mod_add": "ecb4b8a2",
        "mod_sub": "d89f6d7b",
        "mod_mul": "2733680e",
        "mod_div": "f2c5c9a1",
        "mod_cond": "30c1a493",
    },
    **{"mod_exp": "63a8ec3e", "mod_sum": "eb93bf90", "gcd": "7f2f6050", "poly": "383b3e0e", "mod_x2y2": "eaf8a4c8"},
    **{"mod_x2xyy2": "383b3e0e", "mod_x2xyy2x": "1403978c", "mod_x3xy": "3a9d9cf6", "mod_x3xy2y": "d7c2b253"},
    **{"s5": "838b9266", "s5conj": "c9893891", "s5aba": "e141d28e", "group": "c33230d1", "parity": "79aaa607"},
    **{"sparse_parity": "f2c58c9d", "random_labels": "d53c4862", "mix": "7a89c38f"},
}
SIZES = {"group": {"of": "D4xC2"}, "parity": {"bits": 5}, "mod_sum": {"p": 5}, "sparse_parity": {"examples": 50}}


@pytest.mark.parametrize("name", HASHES)
def test_a_table_is_what_it_was(name):
    own = SIZES.get(name, {"p": 7} if "p" in tasks[name].defaults else {})
    table = tasks[name].make(**own)
    assert hashlib.sha256(table.tokens.tobytes() + table.labels.tobytes()).hexdigest()[:8] == HASHES[name]


# --- a task and its first option --------------------------------------------------------------------------------------


def test_the_first_option_may_stand_behind_the_name():
    for name, same in {
        "mod_add:23": {"task.name": "mod_add", "task.p": 23},
        "poly:x*y": {"task.name": "poly", "task.formula": "x*y"},
        "parity:4": {"task.name": "parity", "task.bits": 4},
    }.items():
        assert run_spec({"task.name": name}, 0) == run_spec(same, 0) == run_spec({**same, "task.name": name}, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task.name": "s5:3"}, "s5 has no options"),
        ({"task.name": "mod_add:x"}, "task.p = 'x'; allowed: integers"),
        ({"task.name": "mod_add:23", "task.p": 7}, "task.p = 7 was said, too; say it once"),
        ({"task.name": "mod_ad:23"}, "unknown task 'mod_ad'; did you mean mod_add"),
    ],
)
def test_a_name_with_a_bad_option_is_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        run_spec(settings, 0)


# --- declared positions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", built_in_tables())
def test_declared_positions_tell_the_truth(table):
    assert layout_errors(table) == []


@pytest.mark.parametrize("table", built_in_tables(*WITHOUT_EVERY_COMBINATION))
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
