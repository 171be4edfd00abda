"""The promises of every optimizer and transform: kept by all that ship, and broken by what breaks them."""

import re
import sys

import pytest
import torch
from torch import nn

from grokking.cli import command_line
from grokking.errors import BadInput
from grokking.inits import init, inits
from grokking.losses import loss, losses
from grokking.models import model, models
from grokking.optim import optimizer, optimizers, zeros
from grokking.optim.schedules import schedule, schedules
from grokking.optim.transforms import transform, transforms
from grokking.runs import run_spec
from grokking.store import load
from grokking.tasks import tasks
from grokking.testing import (
    Broken,
    check_model,
    check_optimizer,
    check_schedule,
    check_task,
    check_transform,
    promises_of,
)

BUILT_IN = [name for name in optimizers if optimizers[name].make.__module__.startswith("grokking.")]
ANYONES = [
    "torch.optim.NAdam",
    "torch.optim.LBFGS",  # asks for a closure
    "pytorch_optimizer.AliG",  # asks for one, and has no learning rate
    "pytorch_optimizer.SophiaH",  # asks for gradients with a graph, and draws random numbers
    "schedulefree.AdamWScheduleFree",  # has train() and eval()
]


@pytest.fixture(autouse=True)
def registries_as_before():
    registries = optimizers, transforms, models, tasks, losses, inits
    before = [dict(registry._entries) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry._entries.clear()
        registry._entries.update(entries)


@pytest.mark.parametrize("name", [*BUILT_IN, *ANYONES])
def test_every_optimizer_keeps_its_promises(name):
    check_optimizer(name)


@pytest.mark.parametrize(
    "settings",
    [
        {"orthogonalize": "svd"},
        {"orthogonalize": "spectral_norm"},
        {"orthogonalize": "frobenius_norm"},
        {"orthogonalize": "you6", "matrices": "all"},
        {"orthogonalize": "polar_express", "ns_steps": 12, "momentum_form": "sum"},
    ],
)
def test_muon_keeps_them_in_all_its_forms(settings):
    check_optimizer("muon", **{f"optimizer__{name}": value for name, value in settings.items()})


@pytest.mark.parametrize("name", sorted(transforms))
def test_every_transform_keeps_its_promises(name):
    check_transform(name)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "exponential_rise"])
def test_schedules_with_numbers_of_each_run_keep_them_too(schedule):
    check_optimizer("adamw", schedule__name=schedule)


def test_a_rule_that_climbs_is_found_out():
    @optimizer(lr=0.1)
    def climbs(w, grad, state, h, role):
        """w ← w + lr · grad"""
        return w + h.lr * grad, state

    with pytest.raises(
        Broken,
        match="down a convex quadratic: no, within 150 steps, at the best of 8 learning rates, the loss falls to 1 ",
    ):
        check_optimizer("climbs")


def test_a_rule_that_moves_without_a_gradient_is_found_out():
    @optimizer(lr=0.1, weight_decay=0.0)
    def drifts(w, grad, state, h, role):
        """w ← w - lr · (grad + 0.001)"""
        return w - h.lr * (grad + 0.001), state

    with pytest.raises(
        Broken, match=r"leave the weights where they are: no, parameters that moved, by their shapes: \(5, 3\)"
    ):
        check_optimizer("drifts")


def test_a_rule_that_looks_at_its_cohort_is_found_out():
    class Seen:
        """Counts calls, as a rule with a state of its own would."""

        calls = 0

    @optimizer(lr=0.1)
    def remembers(w, grad, state, h, role):
        """w ← w - lr · grad, a little less at every call"""
        Seen.calls += 1
        return w - h.lr * grad / (1 + Seen.calls / 1000), state

    with pytest.raises(Broken, match="the same bits alone and among others: no"):
        check_optimizer("remembers")


def test_a_rule_that_hides_a_nan_is_frozen_all_the_same():
    @optimizer(lr=0.1)
    def forgives(w, grad, state, h, role):
        """w ← w - lr · grad, in which NaN is 0"""
        return torch.nan_to_num(w) - h.lr * grad, state

    check_optimizer("forgives")  # the engine freezes a run at its first gradient that is not finite, before any rule


def test_a_rule_that_shrinks_its_state_is_refused_at_once():
    @optimizer(lr=0.1, state=zeros("m"))
    def shrinks(w, grad, state, h, role):
        """w ← w - lr · grad"""
        return w - h.lr * grad, state(m=state.m.sum())

    with pytest.raises(BadInput, match="'shrinks' changes the shape of its state: m"):
        check_optimizer("shrinks")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"state": {"count": 0.0}}, r"state 'count' starts as 0\.0; declare it by zeros\('count'\)"),
        ({"state": {"m.a": torch.zeros_like}}, r"state 'm\.a' has a dot in its name"),
        ({"state": zeros}, r"allowed: zeros\(\"momentum\"\), with the names of its tensors"),
        ({"state": "momentum"}, "state = 'momentum'; allowed: zeros"),
        ({"step": 1.0}, "a rule cannot declare step, which it is given"),
        ({"lr": 1}, r"lr=1 would be static; write lr=1\.0"),
    ],
)
def test_what_a_rule_cannot_declare_is_refused_where_it_is_declared(declared, message):
    with pytest.raises(BadInput, match=message):
        optimizer(**declared)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda w, state: w, r"it returns one Tensor; return \(w, state\)"),
        (lambda w, state: None, r"it returns nothing; return \(w, state\)"),
        (lambda w, state: (w, w), r"it returns one Tensor as its state; return \(w, state\)"),
    ],
)
def test_a_rule_that_returns_something_else_is_told_what(returned, message):
    @optimizer(lr=0.1)
    def returns(w, grad, state, h, role):
        """w ← w"""
        return returned(w, state)

    with pytest.raises(BadInput, match=message):
        check_optimizer("returns")


def test_a_rule_that_draws_from_pytorchs_generator_is_refused_at_once():
    @optimizer(lr=0.1)
    def gambles(w, grad, state, h, role):
        """w ← w - lr · (grad + N(0, 1))"""
        return w - h.lr * (grad + torch.randn_like(w)), state

    with pytest.raises(
        BadInput, match=r"randn_like\S* draws from a generator that all runs share; allowed: grokking.hashing"
    ):
        check_optimizer("gambles")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda w: w + torch.rand(w.shape), r"rand\S* draws from a generator that all runs share"),
        (lambda w: w.long(), "returns weights of torch.int64; they were torch.float32"),
        (lambda w: w > 0, "returns weights of torch.bool"),
        (lambda w: w.to(torch.complex64), "returns weights of torch.complex64"),
        (lambda w: sys.exit(0), r"it calls sys\.exit\(0\)"),
    ],
)
def test_a_rule_that_no_run_could_keep_is_refused_at_once(returned, message):
    @optimizer(lr=0.1)
    def loses(w, grad, state, h, role):
        """w ← something else"""
        return returned(w), state

    with pytest.raises(BadInput, match=message):
        check_optimizer("loses")


def test_a_decorator_without_its_numbers_is_refused():
    def bare(w, grad, state, h, role):
        """w ← w - grad"""
        return w - grad, state

    with pytest.raises(
        BadInput, match=r"@optimizer stands before bare without its numbers; write @optimizer\(lr=0\.1\)"
    ):
        optimizer(bare)


@pytest.mark.parametrize("name", [name for name in schedules if "." not in name])
def test_every_schedule_keeps_its_promises(name):
    check_schedule(name)


def test_a_schedule_that_divides_by_zero_is_found_out():
    @schedule
    def blows_up(step, steps, power: float = -0.5):
        """(t - 1) ^ power."""
        return (step - 1) ** power

    with pytest.raises(Broken, match=r"every factor is a finite number from 0 on: no, inf at step 1 of 1"):
        check_schedule("blows_up")

    @schedule
    def falls_below(step, steps, slope: float = -2.0):
        """1 + slope · (t - 1)."""
        return 1 + slope * (step - 1)

    with pytest.raises(Broken, match="no, -2 at step 2 of 2"):  # a default below 0 allows any finite number
        check_schedule("falls_below", schedule__slope=-3.0)


@pytest.mark.parametrize("name", sorted(models))
def test_every_model_keeps_its_promises(name):
    check_model(name)


@pytest.mark.parametrize("name", ["mod_div", "mix", "text", "mod_add:5"])
def test_tasks_keep_theirs(name):
    check_task(name)


@pytest.mark.parametrize(("kind", "name"), [*(("loss", name) for name in losses), *(("init", name) for name in inits)])
def test_every_loss_and_every_initialisation_keeps_its_promises(kind, name):
    assert all(promise.held for promise in promises_of(kind, name))


def test_promises_are_tried_with_other_settings_too():
    check_model("mlp", loss__name="sparsemax_loss", task__name="parity", task__bits=4)
    check_task("mod_sum", prompt="operands", task__p=5)


def test_a_loss_of_each_example_and_an_init_of_another_shape_are_refused():
    @loss
    def each(scores, labels):
        """One number of each example."""
        return scores.sum(-1)

    @init
    def flat(law, shape, draws):
        """Numbers in a row."""
        return draws.standard_normal(shape[0])

    with pytest.raises(BadInput, match=r"loss 'each' returns \[3\]; a loss is one number"):
        run_spec({"loss.name": "each"}, 0)
    with pytest.raises(BadInput, match=r"init 'flat' with \{\} gives no finite values of shape \(4, 3\)"):
        run_spec({"init.name": "flat"}, 0)


def test_a_model_that_mixes_its_batch_is_found_out():
    class Centred(nn.Module):
        def __init__(self, table):
            super().__init__()
            self.embedding, self.head = nn.Embedding(len(table.vocabulary), 8), nn.Linear(8, table.classes)

        def forward(self, tokens):
            x = self.embedding(tokens).sum(1)
            return self.head(x - x.mean(0))

    @model
    def centred(table):
        """Embeddings less their mean over the batch."""
        return Centred(table)

    with pytest.raises(
        Broken, match="do not depend on the others of its batch: no, beside three others they differ by"
    ):
        check_model("centred")


@pytest.mark.parses
def test_a_users_model_is_checked_with_a_table_of_its_roles(tmp_path, capsys):
    path = tmp_path / "own_model.py"
    path.write_text(
        "from torch import nn\n\nfrom grokking.models import model\n\n\n@model\n"
        'def own_net(table, width: int = 8):\n    """Two layers on embeddings."""\n'
        "    layers = nn.Embedding(len(table.vocabulary), width), nn.Flatten(), nn.Linear(len(table.positions) * width, 8)\n"
        "    return nn.Sequential(*layers, nn.LayerNorm(8), nn.Linear(8, table.classes))\n"
    )
    assert command_line(["check", str(path)]) == 0
    said = capsys.readouterr().out.splitlines()
    roles = {line.split()[0]: re.split(r"  +", line)[2] for line in said[2:9]}
    assert roles == {
        "0.weight": "embedding",
        "2.weight": "hidden",
        "2.bias": "bias",
        "3.weight": "gain",
        "3.bias": "bias",
        "4.weight": "head",
        "4.bias": "bias",
    }
    assert [line[:4] for line in said[10:]] == ["pass"] * 5
    assert command_line(["list", "models", "own_net"]) == 0
    assert said[1] in capsys.readouterr().out


def test_a_transform_that_mixes_up_the_weights_is_refused_at_once():
    @transform()
    def flattens(grads, weights, state, h):
        """g ← all of g in a row"""
        return {name: g.flatten() for name, g in grads.items()}, state

    with pytest.raises(BadInput, match="'flattens' changes the names or shapes of what it is given"):
        check_transform("flattens")


def test_a_transform_that_writes_into_the_weights_is_refused_at_once():
    @transform(at="weights")
    def halves(tree, weights, state, h):
        """w ← w / 2, in place"""
        for w in weights.values():
            w.mul_(0.5)
        return tree, state

    with pytest.raises(BadInput, match="'halves' writes into a tensor that it was given; return new tensors"):
        check_transform("halves")


def test_a_transform_that_grows_its_state_is_refused_at_once():
    @transform(state=zeros("seen"))
    def collects(grads, weights, state, h):
        """g ← g"""
        return grads, {name: own(seen=torch.cat([own.seen, own.seen])) for name, own in state.items()}

    with pytest.raises(BadInput, match="'collects' changes the shape of its state"):
        check_transform("collects")


def test_a_transform_cannot_claim_the_learning_rate():
    with pytest.raises(BadInput, match="a transform cannot declare lr, which it is given"):
        transform(lr=0.1)


# --- the command --------------------------------------------------------------------------------------------------------

RULE = '''
import torch

from grokking.optim import optimizer, zeros


@optimizer(lr=1e-3, beta=0.9, weight_decay=1.0, state=zeros("momentum"))
def sign_momentum_{tag}(w, grad, state, h, role):
    """w ← (1 - lr · weight_decay) · w - lr · sign(m), m an average of gradients."""
    momentum = h.beta * state.momentum + (1 - h.beta) * grad
    return w * (1 - h.lr * h.weight_decay) - h.lr * torch.sign(momentum), state(momentum=momentum)
'''


@pytest.mark.parses
def test_a_users_file_is_checked_listed_and_trained(tmp_path, capsys):
    path = tmp_path / "my_rule.py"
    path.write_text(RULE.format(tag="a"))
    assert command_line(["check", str(path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "sign_momentum_a"
    assert len(said) == 7
    assert all(line.startswith("pass  ") for line in said[1:])
    assert command_line(["list", "optimizers", "--import", str(path)]) == 0
    listed = capsys.readouterr().out
    assert "sign_momentum_a" in listed
    assert "lr=0.001 beta=0.9 weight_decay=1.0" in listed
    small = ["task.p=7", "model.width=16", "model.heads=2", "batch_size=16", "optimizer.beta=0.8"]
    run = [
        "run",
        "--import",
        str(path),
        "--optimizer",
        "sign_momentum_a",
        "--steps",
        "12",
        "--out",
        str(tmp_path / "out"),
    ]
    assert command_line([*run, "--workers", "1", "--device", "cpu", "--set", *small]) == 0
    assert "mod_add:7 sign_momentum_a seed 0: " in capsys.readouterr().out


@pytest.mark.parses
def test_a_file_is_checked_to_its_end_whatever_fails_and_twins_are_both_checked(tmp_path, capsys):
    path = tmp_path / "several.py"
    path.write_text(
        "from grokking.optim import optimizer\nfrom grokking.optim.transforms import transform\n\n\n"
        "@optimizer(lr=0.1)\ndef broken(w, grad, state, h, role):\n    'w ← w'\n    return None\n\n\n"
        "@optimizer(lr=0.1)\ndef twin(w, grad, state, h, role):\n    'w ← w + lr · grad'\n    return w + h.lr * grad, state\n\n\n"
        "@transform()\ndef twin(tree, weights, state, h):\n    'g ← g'\n    return tree, state\n"
    )
    assert command_line(["check", str(path)]) == 1
    said = capsys.readouterr().out
    assert said.count("\ntwin\n") == 2
    assert "FAIL  optimizer 'broken' fails on a parameter with the role embedding: it returns nothing" in said
    assert "FAIL  some learning rate takes it down a convex quadratic" in said


@pytest.mark.parses
def test_a_thing_is_listed_with_all_that_is_said_of_it(capsys):
    assert command_line(["list", "optimizers", "muon"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("`momentum_form`:", "`scale` for w [out, in]:", "orthogonalize=jordan"))
    with pytest.raises(BadInput, match="unknown schedule 'cosin'; did you mean cosine"):
        command_line(["list", "schedules", "cosin"])


@pytest.mark.parses
def test_what_does_not_keep_a_promise_is_said_and_fails(tmp_path, capsys):
    path = tmp_path / "climbing.py"
    path.write_text(
        "from grokking.optim import optimizer\n\n\n@optimizer(lr=0.1)\ndef climbing(w, grad, state, h, role):\n"
        '    """w ← w + lr · grad"""\n    return w + h.lr * grad, state\n'
    )
    assert command_line(["check", str(path)]) == 1
    assert "FAIL  some learning rate takes it down a convex quadratic; seen: " in capsys.readouterr().out


@pytest.mark.parses
def test_a_file_that_registers_nothing_is_said(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("")
    with pytest.raises(
        BadInput,
        match="registers no optimizer, no transform, no schedule, no model, no task, no loss, no init; decorate one",
    ):
        command_line(["check", str(path)])


@pytest.mark.parses
def test_every_optimizer_is_listed_with_formula_numbers_and_source(capsys):
    assert command_line(["list", "optimizers"]) == 0
    blocks = capsys.readouterr().out
    for name in BUILT_IN:
        entry = optimizers[name]
        assert "←" in entry.formula, name
        assert entry.source, name
        assert "Decay: " in (entry.make.__doc__ or ""), name
        assert entry.formula in blocks
        assert f"source: {entry.source}" in blocks
        for option, default in entry.defaults.items():
            assert f"{option}={default}" in blocks, name
    for name in transforms:
        assert transforms[name].formula, name
        assert transforms[name].source, name


@pytest.mark.parses
def test_every_name_is_known_before_anything_is_tried(tmp_path, capsys):
    with pytest.raises(BadInput, match="nothing that can be checked is called 'adamx'; did you mean adam"):
        command_line(["check", "adamw", "adamx"])
    assert "pass" not in capsys.readouterr().out
    path = tmp_path / "own_class.py"
    path.write_text(
        "import torch\n\n\nclass Own(torch.optim.SGD):\n    def __init__(self, params, lr: float = 0.1):\n"
        "        super().__init__(params, lr=lr)\n"
    )
    assert command_line(["check", "own_class.Own", "--import", str(path)]) == 0
    assert capsys.readouterr().out.count("pass  ") == 5


def test_a_transform_that_reads_a_rate_which_the_rule_does_not_have_is_refused_at_once():
    @optimizer(matrix_lr=0.1)
    def other_rate(w, grad, state, h, role):
        """w ← w - matrix_lr · grad"""
        return w - h.matrix_lr * grad, state

    check_optimizer("other_rate", transforms="clip_norm")
    with pytest.raises(BadInput, match=r"the rule reads h\.lr, which its optimizer does not declare"):
        check_optimizer("other_rate", transforms="update_noise")


@pytest.mark.parses
def test_a_users_rule_shows_up_in_a_sweep(tmp_path, capsys):
    """Named in an experiment, imported from another file, trained in worker processes beside AdamW."""
    rule = tmp_path / "swept_rule.py"
    rule.write_text(RULE.format(tag="swept"))
    experiment = tmp_path / "swept.py"
    experiment.write_text(
        "from grokking.study import Study\n"
        "SMALL = {'task.p': 7, 'model.width': 16, 'model.heads': 2, 'batch_size': 16, 'steps': 12}\n"
        "ARMS = [{'optimizer.name': name} for name in ('sign_momentum_swept', 'adamw')]\n"
        "STUDIES = {'smoke': [Study(SMALL, ARMS, range(2))]}\n"
    )
    call = ["sweep", str(experiment), "--scale", "smoke", "--import", str(rule), "--workers", "2"]
    assert command_line([*call, "--out", str(tmp_path / "out"), "--device", "cpu", "--compile", "off"]) == 0
    table = load(tmp_path / "out").runs
    assert table["optimizer.name"].value_counts().to_dict() == {"sign_momentum_swept": 2, "adamw": 2}
    assert table["steps_trained"].tolist() == [12] * 4
    places = ["--out", str(tmp_path / "out"), "--figures", str(tmp_path / "figures")]
    assert command_line(["draw", str(experiment), "--scale", "smoke", "--import", str(rule), *places]) == 0
    assert "| sign_momentum_swept | 0 of 2 (0) | not reached | ≥ 12 |" in capsys.readouterr().out
    assert (tmp_path / "figures" / "swept.png").exists()
