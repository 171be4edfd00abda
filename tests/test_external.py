"""Anyone's optimizer: its options, what its step asks for, and that it trains the very runs that ours do."""

import linecache
import sys
import types

import pytest
import schedulefree
import torch
from tiny import TINY, arm

from grokking.commands.arguments import Where
from grokking.commands.training import train
from grokking.engine.cohort import start
from grokking.engine.external import ExternalTrainer
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput, Interrupted
from grokking.execute.signals import Stop
from grokking.execute.unit import Terms, train_unit
from grokking.extensions import import_extension
from grokking.optim.external import entry
from grokking.optim.stepping import Contract, made, set_rates
from grokking.runs import run_spec
from grokking.setting import contract
from grokking.store import load, prepare

CPU = torch.device("cpu")


def tiny(optimizer, seed=0, **more):
    return run_spec({**TINY, "optimizer.name": optimizer, **{k.replace("__", "."): v for k, v in more.items()}}, seed)


def asked(name):
    spec = tiny(name)
    return contract(spec.setting, spec.hyper)


@pytest.fixture
def mine(tmp_path):
    """A module of the user's own."""
    path = tmp_path / f"mine_{abs(hash(tmp_path)) % 10**8}.py"

    def write(text):
        path.write_text(text)
        import_extension(str(path))
        return path.stem

    yield write
    for name in [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == str(path)]:
        del sys.modules[name]
    entry.cache_clear()


@pytest.mark.parametrize("name", ["my.rule.py", "my rule.py", "2rule.py"])
def test_a_file_of_any_name_is_imported(tmp_path, name):
    (tmp_path / name).write_text("there = True")
    module = import_extension(str(tmp_path / name))
    del sys.modules[module.__name__]
    assert module.there


# --- the same runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"schedule.name": "one_cycle"}, {"model.dropout": 0.2, "schedule.warmup": 7}])
def test_torchs_adamw_trains_the_run_that_ours_does(settings):
    """Same split, initial weights, batches, dropout and schedule: 30 steps apart by rounding only."""
    base = {name: value for name, value in arm("adamw").items() if name != "schedule.warmup"}
    numbers = {"optimizer.lr": 3e-3, "optimizer.weight_decay": 0.5}
    ours = run_spec({**base, **settings, **numbers}, 3)
    other = {"optimizer.name": "torch.optim.AdamW", "optimizer.betas": "0.9,0.98"}
    theirs = run_spec({**base, **settings, **numbers, **other}, 3)
    ends = []
    for trainer in (Trainer(ours.setting, CPU), ExternalTrainer(theirs.setting, CPU)):
        spec = theirs if isinstance(trainer, ExternalTrainer) else ours
        cohort = start([spec], CPU, dtype=torch.float64, places=trainer.places)
        if isinstance(trainer, ExternalTrainer):
            trainer.inner.model.double()
        for _ in range(30):
            trainer.advance(cohort)
        ends.append((cohort, trainer.evaluate(cohort)))
    (a, seen), (b, seen_too) = ends
    for name, w in a.weights.items():
        if not name.endswith("key.bias"):  # whose gradient is rounding, which Adam blows up
            assert (w[0] - b.weights[name][0]).abs().max() <= 1e-9, name
    for metric, value in seen.items():
        assert value[0] == pytest.approx(seen_too[metric][0], abs=1e-6)


def test_they_are_stored_compared_and_restarted_like_any_run(tmp_path):
    specs = [tiny("torch.optim.AdamW", seed) for seed in range(2)] + [tiny("adamw", seed) for seed in range(2)]
    assert train(specs, Where(out=tmp_path, workers=1, device="cpu", compile="off"), ()) == 0
    runs = load(tmp_path).runs
    assert set(runs["optimizer.name"]) == {"adamw", "torch.optim.AdamW"}
    assert runs.groupby("seed")["training_examples"].nunique().eq(1).all() if "training_examples" in runs else True
    assert len(runs) == 4
    again = load(tmp_path, [spec.run_id for spec in specs]).runs
    assert train(specs, Where(out=tmp_path, workers=1, device="cpu", compile="off"), ()) == 0
    assert load(tmp_path, [spec.run_id for spec in specs]).runs.equals(again)


def test_a_stopped_run_leaves_no_checkpoint_and_starts_again(tmp_path):
    prepare(tmp_path)
    terms, spec, stop = Terms(tmp_path, checkpoint_every=0.0), tiny("torch.optim.SGD"), Stop()

    def stopped():
        for _, _, trained in train_unit([spec], terms, stop):
            stop.code = 130 if trained else stop.code

    with pytest.raises(Interrupted):
        stopped()
    assert not list(tmp_path.glob("checkpoints/*/*"))
    assert list(train_unit([spec], terms, Stop()))
    assert load(tmp_path).runs["steps_trained"].tolist() == [16]


def test_random_numbers_come_from_the_runs_own_stream():
    spec = tiny("pytorch_optimizer.SophiaH")
    ends = []
    for noise in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(noise)
            trainer = ExternalTrainer(spec.setting, CPU)
            cohort = start([spec], CPU, places=trainer.places)
            before = torch.get_rng_state()
            for _ in range(12):
                trainer.advance(cohort)
            assert torch.equal(before, torch.get_rng_state())
            ends.append(cohort.weights)
    assert all(torch.equal(w, ends[1][name]) for name, w in ends[0].items())


# --- what step asks for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torch.optim.NAdam", Contract()),
        ("torch.optim.LBFGS", Contract(closure=True)),
        ("pytorch_optimizer.AliG", Contract(closure=True)),
        ("pytorch_optimizer.SophiaH", Contract(graph=True)),
        ("pytorch_optimizer.AdaHessian", Contract(graph=True)),
        ("schedulefree.AdamWScheduleFree", Contract()),
    ],
)
def test_what_a_step_asks_for_is_found_by_trying(name, expected):
    assert asked(name) == expected


def test_sharpness_aware_minimization_gets_its_second_gradient(mine):
    """SAM by hand: up to w + rho · g / ‖g‖, the gradient there, and a step from w."""
    module = mine(
        "import torch\nimport pytorch_optimizer\n\n\ndef sam(params, lr: float = 0.1, rho: float = 0.05):\n"
        "    return pytorch_optimizer.SAM(params, base_optimizer=torch.optim.SGD, lr=lr, rho=rho)\n"
    )
    spec = tiny(f"{module}.sam")
    assert asked(f"{module}.sam") == Contract(closure=True)
    trainer = ExternalTrainer(spec.setting, CPU)
    cohort = start([spec], CPU, places=trainer.places)
    before, rows = {n: w[0].clone() for n, w in cohort.weights.items()}, trainer.data.batch(cohort)[0]
    trainer.advance(cohort)

    def gradients(weights):
        leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
        loss = trainer.inner.run_loss(leaves, {}, trainer.inner.data.tokens[rows], trainer.inner.data.labels[rows])
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    first = gradients(before)
    norm = torch.cat([g.flatten() for g in first.values()]).norm()
    second = gradients({n: w + 0.05 * first[n] / norm for n, w in before.items()})
    rate = 0.1 / 10  # the first of ten steps of warm-up
    for name, w in before.items():
        assert (cohort.weights[name][0] - (w - rate * second[name])).abs().max() < 1e-6, name


def test_schedule_free_is_measured_at_its_average_and_trained_where_it_was():
    spec = tiny("schedulefree.AdamWScheduleFree", optimizer__lr=0.03)
    trainer = ExternalTrainer(spec.setting, CPU)
    cohort = start([spec], CPU, places=trainer.places)
    for _ in range(10):
        trainer.advance(cohort)
    live = trainer._live[spec]
    assert isinstance(live.optimizer, schedulefree.AdamWScheduleFree)
    at = {n: w.clone() for n, w in live.weights().items()}
    seen = trainer.evaluate(cohort)
    assert all(torch.equal(w, at[n]) for n, w in live.weights().items())
    assert live.optimizer.param_groups[0]["train_mode"]
    live.optimizer.eval()
    average = {n: w.unsqueeze(0).clone() for n, w in live.weights().items()}
    assert any((average[n][0] - w).abs().max() > 1e-3 for n, w in at.items())
    cohort.moving = cohort.moving._replace(weights=average)
    assert trainer.inner.evaluate(cohort) == seen


def test_a_function_may_return_several_optimizers_for_parts_of_a_model(mine):
    module = mine(
        "import torch\n\n\ndef muon_and_adamw(model, lr: float = 0.02, adamw_lr: float = 1e-3):\n"
        '    """torch\'s Muon on matrices, AdamW on vectors."""\n'
        "    both = list(model.parameters())\n"
        "    matrices, vectors = [p for p in both if p.dim() == 2], [p for p in both if p.dim() == 1]\n"
        "    return torch.optim.Muon(matrices, lr=lr), torch.optim.AdamW(vectors, lr=adamw_lr)\n"
    )
    name = f"{module}.muon_and_adamw"
    assert entry(name).defaults == {"lr": 0.02, "adamw_lr": 1e-3}
    assert entry(name).version.startswith("source:")
    spec = tiny(name, model__bias=True)
    trainer = ExternalTrainer(spec.setting, CPU)
    cohort = start([spec], CPU, places=trainer.places)
    before = {n: w.clone() for n, w in cohort.weights.items()}
    trainer.advance(cohort)
    moved = {n for n, w in cohort.weights.items() if not torch.equal(w, before[n])}
    assert {n for n in before if before[n].dim() == 3} <= moved
    assert any(before[n].dim() == 2 for n in moved)
    rates = [group["lr"] for group in trainer._live[spec].optimizer.param_groups]
    assert rates == [pytest.approx(0.002), pytest.approx(1e-4)]  # the first of ten steps of warm-up


# --- options ------------------------------------------------------------------------------------------------------------


def test_options_are_typed_and_tuples_written_out():
    defaults = entry("torch.optim.NAdam").defaults
    assert defaults["lr"] == 2e-3
    assert type(defaults["weight_decay"]) is float  # 0 in the signature, which says float
    assert defaults["betas"] == "0.9,0.999"
    assert defaults["decoupled_weight_decay"] is False
    assert "foreach" not in defaults
    model = torch.nn.ParameterList([torch.zeros(2, 2)])
    optimizer = made(entry("torch.optim.NAdam"), {**defaults, "betas": "0.5,0.6"}, model)
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.6)


def test_a_tensor_of_a_rate_is_filled_and_no_rate_is_left_alone():
    groups = [{"lr": torch.tensor(1.0)}, {"lr": 1.0}, {}]
    optimizer = types.SimpleNamespace(param_groups=groups)
    set_rates(optimizer, [2.0, 3.0, None], 0.5)
    assert groups[0]["lr"].item() == 1.0
    assert groups[1]["lr"] == 1.5
    assert groups[2] == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optimizer.name": "torch.optim.Nadam"},
            r"'torch\.optim\.Nadam': torch\.optim has no such class; did you mean NAdam",
        ),
        ({"optimizer.name": "nowhere.Adam"}, r"cannot import 'nowhere'.*install 'nowhere', or name your own file"),
        ({"optimizer.name": "pytorch_optimizer.SAM"}, "wants 'base_optimizer', which has no default; write a function"),
        (
            {"optimizer.name": "torch.optim.Muon"},
            "fails at its defaults: ValueError: Muon only supports 2D parameters.*a function of `model`",
        ),
        (
            {"optimizer.name": "torch.optim.NAdam", "optimizer.betas": "0.9"},
            r"optimizer.betas = '0.9'; allowed: 2 numbers",
        ),
        (
            {"optimizer.name": "torch.optim.NAdam", "optimizer.betas": "a,b"},
            r"optimizer.betas = 'a,b'; allowed: 2 numbers",
        ),
        (
            {"optimizer.name": "torch.optim.SGD", "optimizer.momentum": -1},
            "momentum = -1.0: ValueError: Invalid momentum value: -1.0$",
        ),
        ({"optimizer.name": "torch.zeros"}, "is no class and no function of parameters"),
        ({"optimizer.name": "..x"}, "is no dotted name; allowed: module.Class"),
        ({"optimizer.name": "torch.nn.Linear"}, "wants 'out_features', which has no default"),
        ({"optimizer.name": "torch.optim.NAdam", "optimizer.lr": 0.0}, "optimizer.lr = 0.0; allowed: positive"),
        ({"optimizer.name": "torch.optim.NAdam", "optimizer.rate": 1}, "unknown setting 'optimizer.rate'"),
        ({"optimizer.name": "torch.optim.NAdam", "transforms": "clip_norm"}, "takes its gradients as they are"),
    ],
)
def test_mistakes_are_one_sentence_before_any_work(settings, message):
    with pytest.raises(BadInput, match=message):
        run_spec({**TINY, **settings}, 0)


def test_a_release_is_part_of_the_run_and_so_is_a_users_source(mine):
    versions = dict(tiny("torch.optim.SGD").setting.versions)
    assert versions["optimizer"] == f"torch {torch.__version__.partition('+')[0]}"
    module = mine(
        "import torch\n\n\nclass Mine(torch.optim.SGD):\n    def __init__(self, params, lr: float = 0.1):\n        super().__init__(params, lr=lr)\n"
    )
    assert dict(tiny(f"{module}.Mine").setting.versions)["optimizer"].startswith("source:")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("lr * 1.0", "lr * 0.5"),
        ("class Base(torch.optim.SGD): momentum = 1", "class Base(torch.optim.SGD): momentum = 2"),
    ],
)
def test_an_edit_anywhere_in_a_users_file_is_another_run(mine, before, after):
    """A function returns what is defined elsewhere in the file, and a class inherits from it."""
    text = (
        "import torch\n\n\nclass Base(torch.optim.SGD): momentum = 1\n\n\nclass Mine(Base):\n"
        "    def __init__(self, params, lr: float = 0.1):\n        super().__init__(params, lr=lr * 1.0)\n\n\n"
        "def mine(params, lr: float = 0.1):\n    return Mine(params, lr=lr)\n"
    )
    names = [f"{mine(text)}.{name}" for name in ("Mine", "mine")]
    first = [tiny(name).run_id for name in names]
    entry.cache_clear()
    for name in [name for name, module in sys.modules.items() if getattr(module, "Mine", None)]:
        del sys.modules[name]
    linecache.clearcache()
    mine(text.replace(before, after))
    assert all(tiny(name).run_id != earlier for name, earlier in zip(names, first, strict=True))


@pytest.mark.parametrize("where", ["made", "step"])
def test_an_optimizer_that_exits_is_a_mistake_and_no_success(mine, where):
    module = mine(
        "import sys\nimport torch\n\n\nclass Exits(torch.optim.SGD):\n    def __init__(self, params, lr: float = 0.1):\n"
        "        super().__init__(params, lr=lr)\n"
        + ("        sys.exit(0)\n" if where == "made" else "    def step(self):\n        sys.exit(0)\n")
    )
    with pytest.raises(BadInput, match=r"it calls sys\.exit\(0\)"):
        tiny(f"{module}.Exits")


def test_what_a_step_asks_for_is_tried_with_the_runs_own_numbers():
    settings = {"optimizer__nesterov": True, "optimizer__momentum": 0.9}
    assert tiny("torch.optim.SGD", **settings).run_id  # with momentum 0, the default, torch refuses nesterov
    with pytest.raises(BadInput, match="Nesterov momentum requires a momentum"):
        tiny("torch.optim.SGD", optimizer__nesterov=True)


def test_a_function_of_the_model_sees_the_runs_own_model(mine):
    module = mine(
        "import torch\nfrom grokking.roles import Role, declarations\n\n\ndef split(model, lr: float = 0.1):\n"
        "    roles = {name: law.role for name, law in declarations(model).items()}\n"
        "    hidden = [p for name, p in model.named_parameters() if roles[name] is Role.HIDDEN]\n"
        "    rest = [p for name, p in model.named_parameters() if roles[name] is not Role.HIDDEN]\n"
        "    return torch.optim.Muon(hidden, lr=lr), torch.optim.SGD(rest, lr=lr)\n\n\n"
        "def some(model, lr: float = 0.1):\n"
        "    return torch.optim.SGD([p for name, p in model.named_parameters() if 'head' not in name], lr=lr)\n"
    )
    assert tiny(f"{module}.split").run_id
    with pytest.raises(BadInput, match=r"leaves parameters out, which would never be trained: head\.weight"):
        tiny(f"{module}.some")


def test_what_a_constructor_draws_comes_from_the_runs_own_stream_too(mine):
    module = mine(
        "import torch\n\n\nclass Drawn(torch.optim.SGD):\n"
        "    def __init__(self, params, lr: float = 0.1):\n"
        "        super().__init__(params, lr=lr * float(torch.rand(())))\n"
    )
    spec, rates = tiny(f"{module}.Drawn"), []
    for noise in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(noise)
            trainer = ExternalTrainer(spec.setting, CPU)
            cohort = start([spec], CPU, places=trainer.places)
            trainer.advance(cohort)
            rates.append(trainer._live[spec].rates)
    assert rates[0] == rates[1]
