import itertools
import json
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grokking.errors import BadInput
from grokking.extensions import import_extension
from grokking.later import later
from grokking.optim import optimizers
from grokking.runs import RunSpec, run_spec
from grokking.setting import DEFAULTS, KINDS, Setting
from grokking.study import Study, grid, plan, total_steps

TINY = {"task.p": 7, "model.width": 16, "model.heads": 2, "steps": 60}


def spec(seed=0, **changed):
    return run_spec({**TINY, **{name.replace("__", "."): value for name, value in changed.items()}}, seed)


# --- completing and casting ---------------------------------------------------------------------------------------


def test_defaults_are_completed_with_those_of_the_chosen_things():
    row = run_spec({"optimizer.name": "sgd", "task.name": "parity"}, 3).row()
    assert row["optimizer.momentum"] == optimizers["sgd"].defaults["momentum"]
    assert (row["task.name"], row["task.bits"], row["seed"]) == ("parity", 10, 3)
    expected = {**DEFAULTS, "optimizer.name": "sgd", "task.name": "parity"}
    assert {name: row[name] for name in DEFAULTS if name not in later({**DEFAULTS, "optimizer.name": "sgd"})} == {
        name: value for name, value in expected.items() if name not in later({**DEFAULTS, "optimizer.name": "sgd"})
    }
    assert "task.p" not in row
    assert "optimizer.beta1" not in row


def test_a_spelled_out_default_is_the_same_run():
    assert spec(optimizer__name="adamw", batch_size=512, model__depth=1).run_id == spec().run_id


def test_every_setting_of_a_run_can_be_given_back_and_gives_the_same_run():
    run = spec(optimizer__name="muon", optimizer__lr=0.013)
    row = {name: value for name, value in run.row().items() if name not in ("run_id", "seed")}
    assert run_spec(row, run.seed) == run


@pytest.mark.parametrize("value", ["1", 1, 1.0, "1.0", "1e0"])
def test_the_type_of_a_default_decides_the_type_of_the_value(value):
    run = spec(optimizer__lr=value)
    assert run.run_id == spec(optimizer__lr=1.0).run_id
    assert type(dict(run.hyper)["optimizer.lr"]) is float


@pytest.mark.parametrize("value", ["64", 64, 64.0, "64.0", "6.4e1"])
def test_whole_numbers_of_any_spelling_are_one_integer(value):
    run = spec(batch_size=value)
    assert run.run_id == spec(batch_size=64).run_id
    assert type(run.setting.by_name["batch_size"]) is int


@pytest.mark.parametrize("value", ["true", "True", True, "TRUE"])
def test_booleans_are_read_from_their_words(value):
    run = spec(optimizer__name="sgd", optimizer__nesterov=value)
    assert run.setting.by_name["optimizer.nesterov"] is True
    assert run.run_id == spec(optimizer__name="sgd", optimizer__nesterov=True).run_id


def test_floats_of_the_optimizer_are_per_run_and_everything_else_is_the_setting():
    run = spec(optimizer__name="muon", optimizer__lr=0.5)
    hyper = dict(run.hyper)
    floats = {f"optimizer.{n}" for n, default in optimizers["muon"].defaults.items() if isinstance(default, float)}
    assert set(hyper) == floats
    assert hyper["optimizer.lr"] == 0.5
    static = run.setting.by_name
    assert {"optimizer.scale", "optimizer.nesterov", "train_fraction", "model.dropout", "threshold"} <= set(static)
    assert not floats & set(static)
    assert run.setting == spec(seed=4, optimizer__name="muon", optimizer__lr=0.1).setting


def test_the_row_names_every_setting_and_hyper_once_and_sorted():
    run = spec(optimizer__name="sgd")
    names = list(run.row())
    assert names[0] == "run_id"
    assert names[-1] == "seed"
    assert names[1:-1] == sorted(
        {*run.setting.by_name, *dict(run.hyper)} - set(later({**DEFAULTS, "optimizer.name": "sgd"}))
    )


# --- run_id -------------------------------------------------------------------------------------------------------


@given(st.permutations([("optimizer.lr", 0.01), ("steps", 60), ("task.p", 7), ("model.width", 16), ("model.heads", 2)]))
def test_the_order_of_keys_does_not_change_the_run_id(pairs):
    run = run_spec(dict(pairs), 5)
    assert run.run_id == spec(seed=5, optimizer__lr=0.01).run_id
    assert run == spec(seed=5, optimizer__lr=0.01)


CHANGES = {
    "task.name": "mod_mul",
    "task.p": 5,
    "model.depth": 2,
    "model.width": 32,
    "model.heads": 4,
    "model.norm": "layernorm",
    "model.dropout": 0.1,
    "model.tied": True,
    "optimizer.name": "adam",
    "optimizer.lr": 0.002,
    "optimizer.weight_decay": 0.5,
    "optimizer.beta1": 0.8,
    "optimizer.eps": 1e-7,
    "schedule.warmup": 20,
    "train_fraction": 0.41,
    "batch_size": 511,
    "steps": 61,
    "threshold": 0.96,
    "linger": 0.25,
    "evaluation.every": 11,
    "evaluation.growth": 0.06,
}


def test_any_changed_setting_or_hyper_or_seed_is_another_run():
    runs = [spec(), spec(seed=1), *(run_spec({**TINY, name: value}, 0) for name, value in CHANGES.items())]
    assert len({run.run_id for run in runs}) == len(CHANGES) + 2


def test_the_smallest_change_of_a_float_is_another_run():
    assert spec(optimizer__lr=1e-3).run_id != spec(optimizer__lr=math.nextafter(1e-3, 1)).run_id


def test_another_version_of_the_engine_or_of_a_thing_in_use_is_another_run():
    run = spec()
    versions = dict(run.setting.versions)
    assert set(versions) == {"engine", *KINDS} - {"init", "scaling"}
    for name in versions:
        bumped = Setting(run.setting.values, tuple(sorted({**versions, name: "other"}.items())))
        assert RunSpec(bumped, run.hyper, run.seed).run_id != run.run_id


def test_the_run_id_is_the_same_in_another_process():
    code = f"from grokking.runs import run_spec; print(run_spec({TINY!r}, 7).run_id)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == spec(seed=7).run_id


def test_the_description_is_complete_and_plain_json():
    run = spec(seed=2, optimizer__name="sgd")
    description = json.loads(json.dumps(run.description()))
    assert description == run.description()
    assert {**description["setting"], **description["hyper"], "seed": description["seed"]} == {
        name: value for name, value in run.row().items() if name != "run_id"
    }
    assert len(run.run_id) == 16
    assert set(run.run_id) <= set("0123456789abcdef")


# --- a user's own functions ---------------------------------------------------------------------------------------

RULE = '''from grokking.optim import optimizer, zeros


@optimizer(lr=0.1, weight_decay=0.0, state=zeros({slots}))
def runs_test_rule(w, grad, state, h, role):
    """A rule of the tests."""
    return w - {factor} * h.lr * (grad + h.weight_decay * w), state
'''


@pytest.fixture
def user_rule(tmp_path):
    """Imports a version of the user's rule and returns the run that uses it; the registry is left as it was."""
    count = itertools.count()

    def registered(factor, slots="", before=""):
        optimizers._entries.pop("runs_test_rule", None)
        path = tmp_path / f"rule_{next(count)}.py"
        path.write_text(before + RULE.format(factor=factor, slots=slots))
        import_extension(str(path))
        return spec(optimizer__name="runs_test_rule")

    yield registered
    optimizers._entries.pop("runs_test_rule", None)


def test_an_edited_rule_is_another_run_and_an_unchanged_one_is_not(user_rule):
    first, same, edited = user_rule("1.0"), user_rule("1.0"), user_rule("2.0")
    assert first.run_id == same.run_id
    assert first.run_id != edited.run_id
    assert dict(first.setting.versions)["optimizer"] != dict(edited.setting.versions)["optimizer"]
    assert {**dict(first.setting.versions), "optimizer": ""} == {**dict(edited.setting.versions), "optimizer": ""}


@pytest.mark.parametrize("number", ["h.step", "h.lr"])
def test_a_rule_that_branches_on_a_number_of_a_run_is_refused_before_any_work(user_rule, number):
    """Alone and interpreted it might pass; beside others, compiled or recorded it cannot."""
    with pytest.raises(BadInput, match="it looks at the value of a tensor"):
        user_rule(f"(1.0 if {number} > 0 else 2.0)")


def test_an_edited_initial_state_is_another_run(user_rule):
    assert user_rule("1.0").run_id != user_rule("1.0", slots="'velocity'").run_id


def test_whatever_stands_in_the_file_of_a_rule_is_part_of_the_run(user_rule):
    """A helper, a class, a constant: what the rule uses of them cannot be told from outside."""
    assert user_rule("1.0").run_id != user_rule("1.0", before="TEMPO = 2\n\n").run_id


def test_a_rule_that_breaks_on_its_first_update_is_refused_before_any_work(user_rule):
    with pytest.raises((KeyError, BadInput), match="missing"):
        user_rule("h.missing")


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "close"),
    [("optimizer.lrr", "optimizer.lr"), ("batchsize", "batch_size"), ("model.widht", "model.width")],
)
def test_an_unknown_setting_is_refused_with_close_names(wrong, close):
    with pytest.raises(BadInput) as refused:
        run_spec({**TINY, wrong: 1}, 0)
    message = str(refused.value)
    assert f"unknown setting {wrong!r}" in message
    assert close in message[message.index("did you mean") : message.index("allowed: ")]
    assert "\n" not in message


def test_a_setting_of_another_optimizer_is_unknown():
    with pytest.raises(BadInput, match=r"unknown setting 'optimizer\.beta1'"):
        spec(optimizer__name="sgd", optimizer__beta1=0.9)


@pytest.mark.parametrize(
    ("kind", "wrong", "close"),
    [
        ("task", "mod_ad", "mod_add"),
        ("optimizer", "adamW", "adamw"),
        ("model", "transfomer", "transformer"),
        ("loss", "crossentropy", "cross_entropy"),
        ("schedule", "warmup", "linear_warmup"),
    ],
)
def test_an_unknown_name_is_refused_with_close_names(kind, wrong, close):
    with pytest.raises(BadInput, match=rf"unknown {kind} '{wrong}'; did you mean .*{close}"):
        run_spec({f"{kind}.name": wrong}, 0)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *[("optimizer.lr", value, "positive finite numbers") for value in (0, -1e-3, NAN, INF, -INF, "nan")],
        ("optimizer.adamw_lr", 0, "positive finite numbers"),
        *[("optimizer.momentum", value, "0 up to, but not including, 1") for value in (1, -0.1, 1.5, NAN)],
        *[("optimizer.adamw_beta2", value, "0 up to, but not including, 1") for value in (1, -1)],
        *[("optimizer.weight_decay", value, "from 0 on") for value in (-1e-9, NAN, INF)],
        *[("optimizer.adamw_eps", value, "from 0 on") for value in (-1e-9, INF)],
        ("schedule.name=one_cycle,schedule.rise", 1.01, "0 to 1"),
        ("schedule.name=warmup_stable_decay,schedule.decay", -0.01, "0 to 1"),
        ("schedule.name=cosine,schedule.warmup", -1, "from 0 on"),
        ("schedule.name=cosine,schedule.cycles", 0, "from 1 on"),
        ("optimizer.name=shampoo,optimizer.memory", 1.01, "0 to 1"),
        ("optimizer.name=soap,optimizer.max_size", -1, "from 0 on"),
        ("optimizer.scale", "bogus", "original, match_rms_adamw, spectral, none"),
        ("optimizer.nesterov", "maybe", "true or false"),
        ("optimizer.lr", "fast", "numbers"),
        *[("train_fraction", value, "strictly between 0 and 1") for value in (0, 1, -0.5, 1.5, NAN)],
        ("train_fraction", 0.001, "some for either side"),
        *[("steps", value, "from 1 on") for value in (0, -5)],
        *[("steps", value, "integers") for value in (0.5, "0.5", "many", NAN, INF)],
        ("batch_size", -1, "from 0 on"),
        *[("threshold", value, "above 0, up to 1") for value in (0, -1, 1.01, NAN)],
        *[("linger", value, "from 0 on") for value in (-0.5, NAN, INF)],
        ("evaluation.every", 0, "from 1 on"),
        *[("evaluation.growth", value, "from 0 on") for value in (-0.1, NAN, INF)],
        ("model.depth", 0, "from 1 on"),
        ("model.norm", "batchnorm", "none, layernorm, rmsnorm"),
        ("model.dropout", 1, "but not including, 1"),
        ("model.tied", 2, "true or false"),
        ("model.width", 15, "multiple of model.heads = 2"),
        ("task.p", 1, "2 to 1000"),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence_that_names_it_and_what_is_allowed(name, value, allowed):
    *others, name = name.split(",")
    with pytest.raises(BadInput) as refused:
        run_spec({**TINY, "optimizer.name": "muon", **dict(other.split("=") for other in others), name: value}, 0)
    message = str(refused.value)
    shown = [str(value), repr(value), str(float(value)) if not isinstance(value, str) else value]
    assert name.removeprefix("task.") in message
    assert any(text in message for text in shown)
    assert allowed in message
    assert "\n" not in message


@pytest.mark.parametrize("p", [1, 4, 9, 57])
def test_division_needs_a_prime(p):
    with pytest.raises(BadInput, match=rf"p = {p}\b.*allowed: "):
        run_spec({**TINY, "task.name": "mod_div", "task.p": p}, 0)


@pytest.mark.parametrize("seed", [-1, 2**31, 1.0, "0", None])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(BadInput, match=r"seed =.*allowed: integers from 0"):
        run_spec(TINY, seed)


@pytest.mark.parametrize("value", [None, [1], {}])
@pytest.mark.parametrize("name", ["steps", "optimizer.lr"])
def test_a_value_that_is_no_scalar_is_refused_too(name, value):
    with pytest.raises(BadInput, match="allowed: "):
        run_spec({**TINY, name: value}, 0)


def test_the_bounds_themselves_are_allowed_where_they_say_so():
    run = spec(optimizer__name="sgd", optimizer__momentum=0, optimizer__weight_decay=0, threshold=1, linger=0)
    assert (dict(run.hyper)["optimizer.momentum"], run.setting.by_name["threshold"]) == (0.0, 1.0)
    assert spec(steps=1, batch_size=1, evaluation__every=1, evaluation__growth=0).setting.integer("steps") == 1
    for share in (0, 1):
        assert dict(spec(schedule__name="one_cycle", schedule__rise=share).hyper)["schedule.rise"] == share
    assert spec(seed=2**31 - 1).seed == 2**31 - 1


# --- studies ------------------------------------------------------------------------------------------------------


def test_a_study_is_every_arm_with_every_seed_on_top_of_the_base():
    study = Study(TINY, ({"optimizer.name": "sgd"}, {"optimizer.name": "muon", "steps": 30}), range(3))
    runs = [(run.setting.name("optimizer"), run.setting.integer("steps"), run.seed) for run in study.specs()]
    assert runs == [("sgd", 60, 0), ("sgd", 60, 1), ("sgd", 60, 2), ("muon", 30, 0), ("muon", 30, 1), ("muon", 30, 2)]
    assert total_steps(study.specs()) == 3 * 60 + 3 * 30


def test_runs_that_arms_share_appear_once():
    arms = ({"optimizer.lr": 0.001}, {"optimizer.lr": "1e-3"}, {"optimizer.lr": 0.002}, {})
    study = Study({**TINY, "optimizer.name": "adamw"}, arms, [0, 1, 1])
    default = optimizers["adamw"].defaults["lr"]
    assert len(study.specs()) == 2 * len({0.001, 0.002, default})
    assert len({run.run_id for run in study.specs()}) == len(study.specs())


def test_a_mistake_in_one_arm_is_told_before_any_work():
    with pytest.raises(BadInput, match="unknown optimizer 'sdg'"):
        Study(TINY, ({"optimizer.name": "sgd"}, {"optimizer.name": "sdg"}), range(3)).specs()


def test_a_grid_is_every_combination_by_dotted_name():
    arms = grid(optimizer__lr=[0.1, 0.2], batch_size=[32, 64])
    assert list(arms) == [
        {"optimizer.lr": 0.1, "batch_size": 32},
        {"optimizer.lr": 0.1, "batch_size": 64},
        {"optimizer.lr": 0.2, "batch_size": 32},
        {"optimizer.lr": 0.2, "batch_size": 64},
    ]


# --- the plan -----------------------------------------------------------------------------------------------------


def study_of(*seeds_per_setting):
    return [spec(seed, batch_size=8 + at) for at, count in enumerate(seeds_per_setting) for seed in range(count)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 8))
def test_a_plan_has_every_run_once_one_setting_per_cohort_and_keeps_to_the_width(counts, width, workers):
    specs = study_of(*counts)
    cohorts = plan(specs, width, workers)
    assert Counter(run for cohort in cohorts for run in cohort) == Counter(specs)
    assert all(len({run.setting for run in cohort}) == 1 for cohort in cohorts)
    assert all(1 <= len(cohort) <= width for cohort in cohorts)


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 8))
def test_a_plan_has_work_for_every_worker_where_runs_suffice(counts, width, workers):
    specs = study_of(*counts)
    assert len(plan(specs, width, workers)) >= min(workers, len(specs))


def test_a_plan_for_one_worker_is_as_wide_as_allowed():
    assert [len(cohort) for cohort in plan(study_of(16), 8)] == [8, 8]
    assert [len(cohort) for cohort in plan(study_of(16), 16)] == [16]


def test_a_plan_shares_the_runs_evenly():
    assert sorted(len(cohort) for cohort in plan(study_of(12), 8, 2)) == [6, 6]
    assert sorted(len(cohort) for cohort in plan(study_of(20), 8, 2)) == [6, 7, 7]
    assert sorted(len(cohort) for cohort in plan(study_of(5), 8, 4)) == [1, 1, 1, 2]


def test_runs_of_one_setting_share_a_cohort_whatever_their_numbers_and_order():
    specs = [spec(seed, optimizer__lr=lr, steps=steps) for steps in (30, 60) for lr in (0.1, 0.2) for seed in (0, 1)]
    mixed = [specs[index] for index in np.random.Generator(np.random.PCG64(0)).permutation(len(specs))]
    cohorts = plan(mixed, 8)
    assert sorted(len(cohort) for cohort in cohorts) == [4, 4]
    for cohort in cohorts:
        assert cohort == [run for run in mixed if run.setting == cohort[0].setting]  # the order asked for


def test_a_plan_of_nothing_is_empty():
    assert plan([], 8, 4) == []


def ids(specs):
    return [run.run_id for run in specs]


def test_a_started_cohort_comes_first_and_keeps_its_runs_and_their_order():
    specs = study_of(6, 3)
    begun = [ids([specs[4], specs[1], specs[2]]), ids(specs[6:8])]
    cohorts = plan(specs, 2, 1, begun)
    assert [ids(cohort) for cohort in cohorts[:2]] == begun  # wider than asked for, and not in the order of the study
    assert [ids(cohort) for cohort in cohorts[2:]] == [ids([specs[0]]), ids([specs[3], specs[5]]), ids([specs[8]])]


def test_a_started_cohort_of_which_runs_are_stored_or_not_asked_for_is_planned_anew():
    specs = study_of(4)
    assert plan(specs[1:], 8, 1, [ids(specs)]) == [specs[1:]]
    assert plan(specs, 8, 1, [[*ids(specs[:2]), "0" * 16]]) == [specs]
    assert plan([], 8, 1, [ids(specs)]) == []


def test_of_started_cohorts_that_share_a_run_the_first_is_continued():
    specs = study_of(4)
    assert plan(specs, 8, 1, [ids(specs[:2]), ids(specs[1:3])]) == [specs[:2], specs[2:]]


def test_started_cohorts_count_as_work_for_the_workers():
    specs = study_of(8)
    assert [len(cohort) for cohort in plan(specs, 8, 2, [ids(specs[:2])])] == [2, 6]
    assert [len(cohort) for cohort in plan(specs, 8, 3, [ids(specs[:2])])] == [2, 3, 3]


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.sets(st.integers(0, 9), min_size=1), st.integers(1, 8))
def test_whatever_was_started_every_run_is_planned_once(width, workers, begun, asked):
    specs = study_of(10)
    cohorts = plan(specs[:asked], width, workers, [ids(specs[at] for at in sorted(begun))])
    assert Counter(run for cohort in cohorts for run in cohort) == Counter(specs[:asked])
    assert len(cohorts) >= min(workers, asked) or max(begun) < asked
