"""Scaling rules: factors against the package mup and against plain PyTorch; what they refuse; nothing at the base width."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput
from grokking.models.parts import Multiplier
from grokking.optim import ENTRYWISE, Geometry, Update, optimizers
from grokking.roles import Role, declarations
from grokking.runs import run_spec
from grokking.scaling import Factors, Part, Place, mup, scaling, scalings, spectral
from grokking.seeding import stream

CPU = torch.device("cpu")
TINY = {"task.p": 5, "train_fraction": 0.6, "batch_size": 8, "steps": 6, "schedule.name": "constant"}
MODELS = {
    "mlp": {"model.name": "mlp", "model.depth": 3},
    "embedded mlp": {"model.name": "mlp", "model.inputs": "summed", "model.embedding": 16, "model.bias": True},
    "transformer": {"model.name": "transformer", "model.heads": 2, "model.bias": True, "model.norm": "layernorm"},
    "lstm": {"model.name": "lstm", "model.embedding": 16},
}


def setting(**changed):
    dotted = {name.replace("__", "."): value for name, value in changed.items()}
    return run_spec({**TINY, "scaling.name": "mup", "scaling.base_width": 16, "model.width": 16, **dotted}, 0).setting


def of_model(name, width, **changed):
    own = {key.replace(".", "__"): value for key, value in MODELS[name].items()}
    return setting(**{**own, "model__width": width, **changed})


@pytest.mark.parametrize("rule", ["mup", "spectral"])
@pytest.mark.parametrize("optimizer", [name for name, entry in optimizers.items() if entry.extra["update"]])
def test_nothing_changes_at_the_base_width(optimizer, rule):
    for model in MODELS:
        factors = of_model(model, 16, optimizer__name=optimizer, scaling__name=rule, batch_size=0).factors
        assert all(vars(own)[name] == pytest.approx(1) for own in factors.values() for name in vars(own))


def test_a_run_at_the_base_width_is_that_of_standard_by_every_bit():
    def weights(name, **options):
        spec = run_spec({**TINY, "model.width": 16, "scaling.name": name, **options}, 0)
        trainer = Trainer(spec.setting, CPU)
        cohort = start([spec], CPU, places=trainer.places)
        while cohort.step < 3:
            trainer.advance(cohort)
        return cohort.weights

    ours, standard = weights("mup", **{"scaling.base_width": 16}), weights("standard")
    assert all(torch.equal(ours[name], w) for name, w in standard.items())


# --- against mup ------------------------------------------------------------------------------------------------------


def infinite_shapes(own, base):
    """Both models, with what mup writes on parameters."""
    package = pytest.importorskip("mup")
    model = own.model("cpu")
    package.set_base_shapes(model, base.model("cpu"), rescale_params=False, do_assert=False)
    return package, model


@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("name", ["mlp", "transformer"])
@pytest.mark.parametrize(("optimizer", "maker"), [("adamw", "MuAdamW"), ("adam", "MuAdam"), ("sgd", "MuSGD")])
def test_rates_and_decays_are_those_of_mup(optimizer, maker, name, width):
    """Of every parameter. Decay that Adam adds to the gradient is the exception: there mup has `width` times ours, of all of them.

    It counts with lr · decay, which is right for AdamW. Adam divides by the gradient, whose entries are like 1 / width: beside
    them what mup adds grows with the width.
    """
    own, base = of_model(name, width, optimizer__name=optimizer), of_model(name, 16, optimizer__name=optimizer)
    package, model = infinite_shapes(own, base)
    made = getattr(package, maker)(model.parameters(), lr=0.5, weight_decay=0.25)
    theirs = {
        id(p): (group["lr"] / 0.5, group["weight_decay"] / 0.25) for group in made.param_groups for p in group["params"]
    }
    extra = width / 16 if optimizer == "adam" else 1.0
    for parameter, w in model.named_parameters():
        lr, decay = theirs[id(w)]
        factors = own.factors[parameter]
        assert factors.lr == pytest.approx(lr), parameter
        if parameter == "head.bias":  # of a shape that no width changes, and so as they leave it
            continue
        assert extra * factors.weight_decay == pytest.approx(decay), parameter


@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_initial_values_are_as_large_as_those_of_mup(name, width):
    """Their `normal_` with the standard deviation of the base, from one seed, against ours: declaration times factor."""
    own, base = of_model(name, width), of_model(name, 16)
    package, model = infinite_shapes(own, base)
    laws, before = declarations(model), declarations(base.model())
    for parameter, w in model.named_parameters():
        if not before[parameter].std:
            continue
        plain = torch.empty_like(w)
        torch.nn.init.normal_(plain, generator=torch.Generator().manual_seed(1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            package.init.normal_(w, std=before[parameter].std)
        theirs = float((w.detach() / plain).median())
        assert laws[parameter].std * own.factors[parameter].init == pytest.approx(theirs, rel=1e-5), parameter


def test_what_enters_the_head_is_divided_as_by_mup():
    own, base = of_model("mlp", 64), of_model("mlp", 16)
    package, _ = infinite_shapes(own, base)
    with torch.random.fork_rng(devices=[]):
        wide, narrow, other = (package.MuReadout(width, 5, bias=False) for width in (64, 16, 32))
        package.set_base_shapes(wide, narrow, delta=other, rescale_params=False)
        wide.weight.data.normal_()
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(own.factors["readout"].forward * x @ wide.weight.T, wide(x))


# --- against plain PyTorch --------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """The perceptron of one hidden layer on one-hot codes, multiplied before its head."""

    def __init__(self, first, hidden, head, multiplier):
        super().__init__()
        self.first, self.hidden, self.head = (nn.Parameter(w.clone()) for w in (first, hidden, head))
        self.multiplier = multiplier

    def forward(self, x):
        return self.multiplier * torch.relu(torch.relu(x @ self.first) @ self.hidden.T) @ self.head.T


@pytest.mark.parametrize(
    ("optimizer", "rates"),
    [  # of first, hidden, head, for a width of four times the base: Yang et al. 2022, table 8
        ("sgd", (4.0, 1.0, 4.0)),
        ("adamw", (1.0, 0.25, 1.0)),
    ],
)
def test_steps_are_those_of_table_8_in_plain_pytorch(optimizer, rates):
    options = {"task.p": 5, "train_fraction": 0.8, "batch_size": 0, "steps": 9, "schedule.name": "constant"}
    options |= {"model.name": "mlp", "model.width": 64, "scaling.name": "mup", "scaling.base_width": 16}
    options |= {"optimizer.name": optimizer, "optimizer.lr": 0.01, "optimizer.weight_decay": 0.1}
    spec = run_spec(options, 3)
    trainer = Trainer(spec.setting, CPU)
    cohort = start([spec], CPU, torch.float64, trainer.places)
    first, hidden, head = (cohort.weights[name][0] for name in ("first.weight", "hidden.0.weight", "head.weight"))
    assert hidden.std() == pytest.approx(64**-0.5, rel=0.05)
    assert head.std() == pytest.approx(16**-0.5, rel=0.15)  # as at the base width
    plain = Plain(first, hidden, head, 0.25)
    groups = [
        {"params": [w], "lr": 0.01 * factor, "weight_decay": 0.1 / factor}
        for w, factor in zip(plain.parameters(), rates, strict=True)
    ]
    made = torch.optim.SGD(groups) if optimizer == "sgd" else torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8 / 4)
    table, rows = spec.setting.table(), trainer.data.batch(cohort)[0]
    tokens, labels = torch.from_numpy(table.tokens)[rows], torch.from_numpy(table.labels)[rows]
    places = [at for at, place in enumerate(table.positions) if place.operand is not None]
    x = torch.cat(
        [nn.functional.one_hot(tokens[:, at] - table.positions[at].first, 5) for at in places], dim=1
    ).double()
    for _ in range(5):
        made.zero_grad()
        nn.functional.cross_entropy(plain(x), labels).backward()
        made.step()
        trainer.advance(cohort)
    for ours, theirs in zip(("first.weight", "hidden.0.weight", "head.weight"), plain.parameters(), strict=True):
        torch.testing.assert_close(cohort.weights[ours][0], theirs.detach(), rtol=1e-9, atol=1e-12)


# --- from role and geometry -------------------------------------------------------------------------------------------


def part(role, shape, base, width=4.0, geometry=Geometry.ENTRYWISE, spread=1.0, **update):
    return Part(role, shape, base, width, spread, Update(geometry, **update))


def test_a_spectral_update_is_scaled_by_its_shape_and_not_by_its_name():
    """Up and down projections of muon: "original" has √max(1, out/in), and both have one ratio at every width."""
    for shape, base in (((256, 64), (64, 16)), ((64, 256), (16, 64)), ((64, 64), (16, 16))):
        original = part(Role.HIDDEN, shape, base, geometry=Geometry.SPECTRAL, size=lambda a, b: max(1, a / b) ** 0.5)
        moonlight = part(Role.HIDDEN, shape, base, geometry=Geometry.SPECTRAL, size=lambda a, b: 0.2 * max(a, b) ** 0.5)
        assert mup(original).lr == pytest.approx(1)
        assert mup(moonlight).lr == pytest.approx(0.5)  # 1 / √width


@pytest.mark.parametrize("role", [Role.EMBEDDING, Role.HIDDEN, Role.HEAD])
@pytest.mark.parametrize(
    ("shape", "base"), [((9, 64), (9, 16)), ((40, 64), (40, 16)), ((96, 64), (24, 16)), ((64, 96), (64, 24))]
)
def test_an_orthogonal_update_changes_as_much_at_every_width(role, shape, base):
    """By brute force: what the nearest orthogonal matrix to a random one looks up, or makes of an input that lies along it."""

    def changed(shape):
        matrix = torch.from_numpy(stream(0, "orthogonal", *map(str, shape)).standard_normal(shape))
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        update = left @ right
        if role is Role.EMBEDDING:
            return float(update.square().mean().sqrt())
        along = right[0] * shape[1] ** 0.5  # entries like 1
        return float((update @ along).square().mean().sqrt())

    found = spectral(part(role, shape, base, geometry=Geometry.SPECTRAL))
    assert 1 / found.lr == pytest.approx(changed(shape) / changed(base))


def test_epsilon_follows_the_gradient_where_it_stands_beside_it():
    """What hidden numbers do to the scores falls like 1 / width, and an epsilon beside a gradient's entries with it."""
    for role, shape, base in (
        (Role.HIDDEN, (64, 64), (16, 16)),
        (Role.EMBEDDING, (9, 64), (9, 16)),
        (Role.HEAD, (5, 64), (5, 16)),
    ):
        assert mup(part(role, shape, base)).eps == pytest.approx(0.25)
        assert mup(part(role, shape, base, eps_power=2)).eps == pytest.approx(0.25**2)
        for geometry in (Geometry.GRADIENT, Geometry.RELATIVE):
            assert mup(part(role, shape, base, geometry=geometry)).eps == 1
    assert spectral(part(Role.HEAD, (5, 64), (5, 16))).eps == 1  # without a multiplier its gradient stays as large


@pytest.mark.parametrize(("optimizer", "power"), [("egd", 1), ("shampoo", 2)])
def test_epsilon_is_as_large_beside_singular_values_at_every_width(optimizer, power):
    """Measured: the largest of the first gradient of each matrix (Shampoo has its square), over that of the base width."""

    def largest(width):
        options = {"model.name": "mlp", "model.width": width, "scaling.name": "mup", "scaling.base_width": 64}
        own = {**TINY, **options, "batch_size": 0, "optimizer.name": optimizer}
        own |= {"optimizer.matrices": "all"} if optimizer == "egd" else {}
        specs = [run_spec(own, seed) for seed in range(8)]
        trainer = Trainer(specs[0].setting, CPU)
        cohort = start(specs, CPU, places=trainer.places)
        rows = trainer.data.batch(cohort)
        tokens, labels = trainer.data.tokens[rows], trainer.data.training_labels(cohort.seeds, rows)
        gradients, _ = trainer.gradients(cohort.weights, {}, tokens, labels)
        sizes = {name: float(torch.linalg.matrix_norm(g, ord=2).mean()) for name, g in gradients.items()}
        return sizes, specs[0].setting.factors

    (before, _), (after, factors) = largest(64), largest(1024)
    for name in ("first.weight", "hidden.0.weight", "head.weight"):
        assert factors[name].eps ** (1 / power) == pytest.approx(after[name] / before[name], rel=0.3), name


def test_decay_is_as_strong_at_every_width():
    """lr · decay for what is decoupled or in the gradient of SGD; for Adam's, decay over the gradient, of what is learned."""
    shapes = {Role.HIDDEN: ((64, 64), (16, 16)), Role.HEAD: ((5, 64), (5, 16)), Role.EMBEDDING: ((9, 64), (9, 16))}
    for role, (shape, base) in shapes.items():
        for geometry in Geometry:
            own = mup(part(role, shape, base, geometry=geometry))
            assert own.lr * own.weight_decay == pytest.approx(1)
        sgd = mup(part(role, shape, base, geometry=Geometry.GRADIENT, coupled=True))
        assert sgd.lr * sgd.weight_decay == pytest.approx(1)
        adam = mup(part(role, shape, base, coupled=True))
        assert adam.weight_decay * adam.lr == pytest.approx(adam.eps)  # entries of λ w, and those of the gradient


@pytest.mark.parametrize("geometry", Geometry)
def test_spectral_is_mup_with_the_multiplier_in_the_weights(geometry):
    """W' = W / 4 without a multiplier is W with one of 1 / 4: initial values, and changes of either, differ by that."""
    head = part(Role.HEAD, (5, 64), (5, 16), geometry=geometry)
    one, other = spectral(head), mup(head)
    assert other.init / one.init == pytest.approx(4)
    # A gradient by W' is four times that by W; other updates do not know it, but for a share of the weights themselves.
    known = {Geometry.GRADIENT: 16, Geometry.RELATIVE: 1}.get(geometry, 4)
    assert other.lr / one.lr == pytest.approx(known)
    hidden = part(Role.HIDDEN, (64, 64), (16, 16), geometry=geometry)
    assert spectral(hidden) == mup(hidden)


def test_laws_of_initial_values_end_at_one_size():
    """Whatever law draws them, matrices between features fall with √width, and embeddings and head stay as at the base."""
    for law in ("declared", "kaiming", "xavier", "pytorch", "orthogonal", "normal"):
        sizes = {}
        for width in (64, 256):
            own = of_model("transformer", width, init__name=law, scaling__base_width=64, model__bias=False)
            sizes[width] = {name: float(w.square().mean().sqrt()) for name, w in own.initial_weights(0).items()}
        for name, role in {n: d.role for n, d in declarations(own.model()).items()}.items():
            ratio = {Role.HIDDEN: 0.5}.get(role, 1.0)
            assert sizes[256][name] / sizes[64][name] == pytest.approx(ratio, rel=0.1), (law, name)


def test_parameters_that_pytorch_draws_are_scaled_too(user_model):
    own = setting(model__name=user_model, model__width=64)
    at_base = setting(model__name=user_model, model__width=16)
    ours, before = (float(s.initial_weights(0)["head.weight"].std()) for s in (own, at_base))
    assert ours == pytest.approx(before, rel=0.15)
    x = torch.zeros(1, 3, dtype=torch.int64)
    model, plain = (
        own.started_model(),
        setting(model__name=user_model, model__width=64, scaling__base_width=64).model("cpu").eval(),
    )
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x) - model.head.bias, (plain(x) - plain.head.bias) / 4)


@pytest.fixture
def user_model():
    from grokking.models import model, models

    @model
    def of_a_user(table, width: int = 16) -> nn.Module:
        """A perceptron of torch.nn."""
        return Own(len(table.vocabulary), width, table.classes)

    yield "of_a_user"
    del models._entries["of_a_user"]


class Own(nn.Module):
    def __init__(self, tokens, width, classes):
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.hidden, self.head = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, tokens):
        return self.head(torch.relu(self.hidden(self.embedding(tokens).sum(1))))


def test_a_tied_head_is_multiplied_and_its_embedding_not():
    wide = setting(model__name="gpt", model__width=64, model__depth=1)
    multipliers = {m.place: m.factor for m in wide.model().modules() if isinstance(m, Multiplier)}
    assert multipliers == {"readout": 0.25, "scores": 0.5}
    assert wide.factors["embedding.weight"].lr == 1.0
    spectrally = setting(model__name="gpt", model__width=64, model__depth=1, scaling__name="spectral")
    assert spectrally.factors == wide.factors  # where no weight of its own could take the multiplier in
    tied = wide.initial_weights(0)["embedding.weight"].std()
    assert float(tied) == pytest.approx(16**-0.5, rel=0.1)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_factors_by_the_names_of_numbers():
    own = Factors(lr=2.0, weight_decay=3.0, eps=5.0)
    names = ("lr", "adamw_lr", "weight_decay", "adamw_weight_decay", "eps", "adamw_eps", "momentum", "beta1", "steps")
    assert [own.of(name) for name in names] == [2, 2, 3, 3, 5, 5, 1, 1, 1]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"optimizer__name": "torch.optim.NAdam"}, "does not say how large its updates are; it keeps its own rates"),
        ({"optimizer__name": "soap"}, "'soap' does not say how large its updates are; no rule of widths is known"),
        ({"scaling__base_width": 15, "model__heads": 2}, "scaling.base_width = 15: model.width = 15 is not a multiple"),
        ({"scaling__base_width": 0}, "scaling.base_width = 0: model.width = 0; allowed"),
        ({"transforms": "decay_to_start"}, "transform 'decay_to_start' changes weights or updates by rates"),
        ({"scaling__name": "mu"}, "unknown scaling 'mu'; did you mean mup?"),
        (
            {"scaling__name": "standard"},
            r"'scaling.base_width' \(an option of scaling.name=mup, spectral\); did you mean",
        ),
    ],
)
def test_what_cannot_be_scaled_is_one_sentence(changed, words):
    with pytest.raises(BadInput, match=words):
        setting(**changed)


def test_a_factor_that_is_no_positive_number_is_refused():
    from grokking.scaling import check_factors

    with pytest.raises(BadInput, match="multiplies lr of head by nan"):
        check_factors({"head": Factors(lr=math.nan)})


def test_runs_of_standard_are_described_as_before():
    spec = run_spec(TINY, 0)
    assert not any("scaling" in name for part in spec.description().values() if isinstance(part, dict) for name in part)
    scaled = run_spec({**TINY, "scaling.name": "mup"}, 0)
    assert scaled.description()["setting"]["scaling.base_width"] == 64
    assert scaled.run_id != spec.run_id


def test_places_are_not_parameters():
    assert {place.value for place in Place} & {name for name, _ in setting().model().named_parameters()} == set()
    assert Update(Geometry.ENTRYWISE, size=ENTRYWISE.size) == ENTRYWISE
    for rule in (mup, spectral):
        assert np.isclose(rule(Part(Place.SCORES, (8,), (2,), 4.0)).forward, 0.5)


@pytest.mark.parses
def test_the_list_of_factors_is_refused_before_anything_is_printed(capsys):
    from grokking.cli import command_line

    for words, said in (
        (["--width", "0"], "model.width = 0; allowed"),
        (["--base", "0"], "scaling.base_width = 0: model.width = 0; allowed"),
        (["--set", "model.name=mlp"], "--set model.name = 'mlp', but here --model says it"),
    ):
        with pytest.raises(BadInput, match=said):
            command_line(["list", "scaling", "mup", *words])
    assert not capsys.readouterr().out


@pytest.mark.parses
@pytest.mark.parametrize(
    "words", [["--width", "128"], ["--base", "0"], ["--model", "mlp"], ["--set", "model.bias=true"]]
)
def test_what_only_scaling_reads_is_refused_with_other_kinds(words, capsys):
    from grokking.cli import command_line

    with pytest.raises(BadInput, match=rf"{words[0]} .*: tasks do not depend on it; only `grokking list scaling`"):
        command_line(["list", "tasks", *words])
    assert not capsys.readouterr().out


@pytest.mark.parses
def test_the_list_of_factors_is_that_of_the_setting(capsys):
    from grokking.cli import command_line

    words = ["list", "scaling", "mup", "--model", "mlp", "--optimizer", "muon", "--width", "1024", "--base", "128"]
    command_line(words)
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["readout"][-4] == "0.125"
    assert lines["hidden.0.weight"][-6:] == ["spectral", "1", "1", "1", "1", "1"]
    assert lines["head.weight"][-5:] == ["2.828", "1", "1", "1", "0.125"]
    assert lines["first.weight"][1:4] == ["118", "×", "1024"]


def test_a_rule_without_a_base_width_would_never_scale_anything_and_is_refused():
    with pytest.raises(BadInput, match=r"scaling 'unbased' has no option base_width; add base_width: int = 64"):

        @scaling
        def unbased(part):
            """Half of everything."""
            return Factors(lr=part.width**-0.5)

    assert "unbased" not in scalings


@pytest.mark.parametrize(("model", "factor"), [("transformer", 0.5**0.5), ("lipschitz_transformer", 1.0)])
def test_scores_that_are_divided_by_their_channels_are_not_divided_once_more(model, factor):
    own = {"model.name": model, "model.width": 128, "scaling.name": "mup", "scaling.base_width": 64}
    assert run_spec({**own, "optimizer.name": "muon"}, 0).setting.factors["scores"].forward == pytest.approx(factor)
