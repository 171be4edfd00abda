"""Models beside the transformer, initialisations, prompts, and anyone's module."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput
from grokking.inits import inits
from grokking.models import model, models
from grokking.models.parts import Dropout, Linear
from grokking.models.transformer import Transformer
from grokking.roles import Role, declarations, initial_weights
from grokking.runs import run_spec
from grokking.tasks import prompted, tasks
from grokking.testing import check_model

CPU, DOUBLE = torch.device("cpu"), torch.float64
SMALL = {"task.p": 7, "train_fraction": 0.5, "batch_size": 16, "steps": 12}
SGD = {"optimizer.name": "sgd", "optimizer.lr": 0.1, "optimizer.momentum": 0.9, "optimizer.weight_decay": 0.0}
TABLE = tasks["mod_add"].make(p=7)


def built(name, table=TABLE, **options):
    """A model in float64 with the initial weights of seed 0, every bias and gain moved."""
    made = models[name].make(table, **options).to(DOUBLE).eval()
    weights = initial_weights(made, 0, DOUBLE)
    draws = np.random.default_rng(0)
    moved = {n: w + 0.1 * torch.from_numpy(draws.standard_normal(tuple(w.shape))) for n, w in weights.items()}
    made.load_state_dict(moved, strict=False)
    return made


# --- perceptrons and the LSTM -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_a_perceptron_on_one_hot_codes_is_the_plain_one(depth, bias):
    table = tasks["mod_div"].make(p=7)
    ours = built("mlp", table, depth=depth, width=5, bias=bias, activation="quadratic")
    tokens = torch.from_numpy(table.tokens)
    x = torch.cat([F.one_hot(tokens[:, 0], 7), F.one_hot(tokens[:, 2] - 1, 6)], dim=1).to(DOUBLE)
    named = dict(ours.named_parameters())
    x = x @ named["first.weight"] + named.get("first.bias", 0)
    for layer in range(depth - 1):
        x = x.square() @ named[f"hidden.{layer}.weight"].T + named.get(f"hidden.{layer}.bias", 0)
    expected = x.square() @ named["head.weight"].T + named.get("head.bias", 0)
    assert torch.allclose(ours(tokens), expected, atol=1e-12)


def test_gromovs_analytic_weights_solve_modular_addition():
    """Cosines of every frequency with phases φ₃ = φ₁ + φ₂ (Gromov 2023, equations 6, 7 and 12); without that they do not."""
    p, width = 97, 500
    table = tasks["mod_add"].make(p=p)
    ours = built("mlp", table, depth=1, width=width, activation="quadratic")
    tokens, labels = torch.from_numpy(table.tokens), torch.from_numpy(table.labels)
    draws, turns = np.random.default_rng(0), 2 * np.pi * np.arange(p)[:, None] / p
    frequency, phases = 1 + np.arange(width) % ((p - 1) // 2), 2 * np.pi * draws.random((2, width))

    def accuracy(third):
        first = np.concatenate([np.cos(turns * frequency + phase) for phase in phases])
        weights = {"first.weight": first, "head.weight": np.cos(turns * frequency + third)}
        scores = functional_call(ours, {name: torch.from_numpy(w) for name, w in weights.items()}, (tokens,))
        return float((scores.argmax(1) == labels).double().mean())

    assert accuracy(phases.sum(0)) == 1
    assert accuracy(2 * np.pi * draws.random(width)) < 0.05


@pytest.mark.parametrize("inputs", ["summed", "concatenated"])
def test_a_perceptron_on_embeddings_is_the_plain_one(inputs):
    ours = built("mlp", inputs=inputs, embedding=4, width=5, activation="tanh")
    tokens = torch.from_numpy(TABLE.tokens)
    e = dict(ours.named_parameters())["first.embedding.weight"]
    x, y = e[tokens[:, 0]], e[tokens[:, 2]]
    h = x + y if inputs == "summed" else torch.cat([x, y], dim=1)
    for layer in range(2):
        h = torch.tanh(h @ dict(ours.named_parameters())[f"hidden.{layer}.weight"].T)
    assert torch.allclose(ours(tokens), h @ ours.head.weight.T, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_lstm_is_torchs(depth):
    ours = built("lstm", depth=depth, width=6, embedding=5)
    with torch.random.fork_rng():
        theirs = nn.LSTM(5, 6, depth, batch_first=True).to(DOUBLE)
    for layer in range(depth):
        own = ours.layers[layer]
        theirs.get_parameter(f"weight_ih_l{layer}").data = own.entering.weight.data
        theirs.get_parameter(f"weight_hh_l{layer}").data = own.recurrent.weight.data
        theirs.get_parameter(f"bias_ih_l{layer}").data = own.entering.bias.data
        theirs.get_parameter(f"bias_hh_l{layer}").data.zero_()
    tokens = torch.from_numpy(TABLE.tokens)
    states, _ = theirs(ours.embedding.weight[tokens])
    assert torch.allclose(ours(tokens), states[:, -1] @ ours.head.weight.T + ours.head.bias, atol=1e-12)


def test_attention_alone_has_no_feed_forward_and_presets_are_transformers():
    attention = models["transformer"].make(TABLE, mlp_ratio=0, width=8, heads=2)
    assert not [name for name, _ in attention.named_parameters() if "mlp" in name]
    for name, options in {
        "gpt": {"activation": "gelu", "norm": "layernorm", "bias": True, "tied": True},
        "bert": {"activation": "gelu", "norm": "layernorm", "norm_placement": "post", "bias": True}
        | {"attention": "bidirectional"},
    }.items():
        ours = built(name, width=8, heads=2)
        assert isinstance(ours, Transformer)
        plain = models["transformer"].make(TABLE, depth=2, width=8, heads=2, **options).to(DOUBLE).eval()
        plain.load_state_dict(ours.state_dict())
        assert torch.equal(ours(torch.from_numpy(TABLE.tokens)), plain(torch.from_numpy(TABLE.tokens)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"bias": True}, {"attention", "mlp", "norm", "head"}),
        ({"bias": True, "biased": "blocks"}, {"attention", "mlp", "norm"}),
        ({"bias": True, "biased": "mlp"}, {"mlp"}),
        ({"bias": True, "biased": "norms"}, {"norm"}),
        ({}, set()),
    ],
)
def test_biases_of_a_transformer_are_where_they_are_wanted(options, expected):
    made = models["transformer"].make(TABLE, width=8, heads=2, norm="layernorm", **options)
    names = [name for name, _ in made.named_parameters() if name.endswith("bias")]
    kinds = {
        ("norm" if "norm" in n else "mlp" if ".mlp." in n else "head" if "head" in n else "attention") for n in names
    }
    assert kinds == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"bias": True}, {"first.bias", "hidden.0.bias", "head.bias"}),
        ({"bias": True, "biased": "hidden"}, {"first.bias", "hidden.0.bias"}),
        ({}, set()),
    ],
)
def test_biases_of_a_perceptron_are_where_they_are_wanted(options, expected):
    made = models["mlp"].make(TABLE, width=8, **options)
    assert {name for name, _ in made.named_parameters() if name.endswith("bias")} == expected


@pytest.mark.parametrize("inputs", ["one_hot", "concatenated"])
def test_a_perceptron_drops_out_behind_every_hidden_layer(inputs):
    made = models["mlp"].make(TABLE, depth=2, width=64, inputs=inputs, dropout=0.5).train()
    zeros = []
    for module in made.modules():
        if isinstance(module, Dropout):
            module.register_forward_hook(
                lambda _, x, y: zeros.append(((y == 0) & (x[0] != 0)).sum() / (x[0] != 0).sum())
            )
    keys = {f"dropouts.{at}.key": torch.tensor(3) for at in range(2)}
    functional_call(made, {**initial_weights(made, 0), **keys}, (torch.from_numpy(TABLE.tokens),))
    assert len(zeros) == 2
    assert all(0.4 < float(share) < 0.6 for share in zeros)


def test_dropout_is_where_it_is_wanted():
    everywhere, hidden = (
        models["transformer"].make(TABLE, width=8, heads=2, depth=2, dropout=0.5, dropout_at=at)
        for at in ("all", "hidden")
    )
    rates = [{n: m.rate for n, m in made.named_modules() if isinstance(m, Dropout)} for made in (everywhere, hidden)]
    assert set(rates[0].values()) == {0.5}
    assert len(rates[0]) == 6
    assert [name for name, rate in rates[1].items() if rate] == ["blocks.0.mlp.dropout", "blocks.1.mlp.dropout"]


def test_scores_for_the_whole_vocabulary_and_another_base_of_rope():
    table = tasks["mod_add"].make(p=7)
    whole = built("transformer", width=8, heads=2, outputs="vocabulary")
    assert whole(torch.from_numpy(table.tokens)).shape == (49, 9)
    a, b = (built("transformer", width=8, heads=2, positions="rope", rope_base=base) for base in (10_000, 50))
    assert not torch.allclose(a(torch.from_numpy(table.tokens)), b(torch.from_numpy(table.tokens)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.name": "mlp", "model.inputs": "bits"}, "inputs = 'bits'; allowed: one_hot, summed, concatenated"),
        ({"model.name": "mlp", "model.activation": "swiglu"}, "activation = 'swiglu'; allowed: relu"),
        ({"model.name": "mlp", "model.biased": "blocks"}, "biased = 'blocks'; allowed: all, hidden"),
        ({"model.name": "mlp", "model.depth": 0}, "depth = 0; allowed: integers from 1 on"),
        ({"model.name": "lstm", "model.width": 0}, "width = 0; allowed: integers from 1 on"),
        ({"model.attention_softmax": "argmax"}, "attention_softmax = 'argmax'; allowed: softmax, stablemax, sparsemax"),
        ({"model.mlp_ratio": -1}, "mlp_ratio = -1; allowed: integers from 0 on"),
        ({"prompt": "poem"}, "prompt = 'poem'; allowed: expression, operands, eos"),
        ({"init.name": "normal", "init.std": 0}, "init.std = 0.0; allowed: positive finite numbers"),
        ({"init.name": "orthogonal", "init.gain": -1}, "init.gain = -1.0; allowed: positive finite numbers"),
        ({"init.name": "orthogonal", "init.gain": "nan"}, "init.gain = 'nan'; allowed: numbers"),
        ({"init.scale": 0}, "init.scale = 0.0; allowed: positive finite numbers"),
        ({"label_noise": 1.5}, "label_noise = 1.5; allowed: 0 to 1"),
    ],
)
def test_a_bad_option_is_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        run_spec({**SMALL, **settings}, 0)


# --- initialisation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "spread"),
    [
        ("kaiming", lambda shape: (2 / shape[1]) ** 0.5),
        ("xavier", lambda shape: (2 / sum(shape)) ** 0.5),
        ("pytorch", lambda shape: (3 * shape[1]) ** -0.5),
        ("normal", lambda shape: 0.02),
        ("orthogonal", lambda shape: max(shape) ** -0.5),
    ],
)
def test_matrices_have_the_spread_of_their_initialisation_and_all_else_is_as_declared(name, spread):
    settings = {"model.width": 64, "model.bias": True, "model.norm": "layernorm"}
    spec, plain = (run_spec({**settings, "init.name": init}, 3) for init in (name, "declared"))
    weights, before = spec.setting.initial_weights(3), plain.setting.initial_weights(3)
    for parameter, law in declarations(spec.setting.model()).items():
        w = weights[parameter]
        if law.role is Role.EMBEDDING and name in ("normal", "pytorch"):
            assert w.std().item() == pytest.approx(0.02 if name == "normal" else 1, rel=0.06)
        elif law.role in (Role.HIDDEN, Role.HEAD):
            assert w.std().item() == pytest.approx(spread(w.shape), rel=0.06)
            assert abs(w.mean().item()) < 5 * spread(w.shape) / w.numel() ** 0.5
        elif name == "pytorch" and law.fan_in is not None:  # the bias of a linear map
            assert w.std().item() == pytest.approx((3 * law.fan_in) ** -0.5, rel=0.25)
        else:
            assert torch.equal(w, before[parameter])
    if name == "orthogonal":
        for parameter, law in declarations(spec.setting.model()).items():
            if law.role is Role.HIDDEN:
                values = torch.linalg.svdvals(weights[parameter])
                assert torch.allclose(values, torch.ones_like(values), atol=1e-5)
    assert spec.run_id != plain.run_id


def test_the_scale_multiplies_everything_and_the_default_changes_nothing():
    one, three = (run_spec({**SMALL, "init.scale": scale}, 0) for scale in (1, 3))
    for name, w in one.setting.initial_weights(0).items():
        assert torch.allclose(three.setting.initial_weights(0)[name], 3 * w)
        assert torch.equal(w, initial_weights(one.setting.model(), 0)[name])
    assert run_spec(SMALL, 0) == one
    assert "init" not in dict(one.setting.versions)
    assert "init.name" not in one.row()
    assert set(inits) == {"declared", "kaiming", "xavier", "pytorch", "orthogonal", "normal"}


# --- prompts and label noise ------------------------------------------------------------------------------------------


def test_prompts_say_the_same_example_in_other_words():
    table = tasks["mod_div"].make(p=7)
    short, long = prompted(table, "operands"), prompted(table, "eos")
    assert [t.show(8) for t in (table, short, long)] == ["1 / 3 = 5", "1 3 = 5", "<eos> 1 / 3 = 5"]
    assert (short.vocabulary, long.vocabulary) == (
        ("0", "1", "2", "3", "4", "5", "6", "="),
        ("0", "1", "2", "3", "4", "5", "6", "/", "=", "<eos>"),
    )
    assert all(np.array_equal(t.labels, table.labels) for t in (short, long))
    assert prompted(table, "expression") is table
    three = prompted(tasks["mod_sum"].make(p=3, terms=3), "operands")
    assert three.show(5) == "0 1 2 = 0"
    assert run_spec({"prompt": "operands"}, 0).setting.table().tokens.shape[1] == 3
    assert prompted(tasks["parity"].make(bits=3), "operands").show(6) == "1 1 0 = 0"


def test_label_noise_is_each_runs_own_and_touches_training_labels_alone():
    specs = [run_spec({"label_noise": 0.3}, seed) for seed in range(2)]
    trainer = Trainer(specs[0].setting, CPU)
    rows = torch.arange(len(trainer.data.labels)).repeat(2, 1)
    found = trainer.data.training_labels(torch.tensor([0, 1]), rows)
    wrong = (found != trainer.data.labels).double().mean(1)
    assert torch.allclose(wrong, torch.full((2,), 0.3 * 58 / 59, dtype=DOUBLE), atol=0.03)
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found, trainer.data.training_labels(torch.tensor([0, 1]), rows))
    assert torch.equal(found[:, 5:9], trainer.data.training_labels(torch.tensor([0, 1]), rows[:, 5:9]))
    counts = torch.bincount(found[0][found[0] != trainer.data.labels], minlength=59)
    assert counts.max() < 4 * counts.double().mean()
    clean = Trainer(run_spec({}, 0).setting, CPU)
    assert torch.equal(clean.data.training_labels(torch.tensor([0]), rows[:1])[0], trainer.data.labels)


def test_label_noise_is_trained_on_and_never_validated_on():
    noisy, clean = (run_spec({**SMALL, "label_noise": noise}, 0) for noise in (1.0, 0.0))
    trainers = [Trainer(spec.setting, CPU) for spec in (noisy, clean)]
    cohorts = [start([spec] * 2, CPU) for spec in (noisy, clean)]
    before = [trainer.evaluate(cohort) for trainer, cohort in zip(trainers, cohorts, strict=True)]
    assert before[0]["validation_loss"][0] == before[1]["validation_loss"][0]
    assert before[0]["validation_accuracy"][0] == before[1]["validation_accuracy"][0]
    assert before[0]["train_loss"][0] != before[1]["train_loss"][0]
    for trainer, cohort in zip(trainers, cohorts, strict=True):
        trainer.advance(cohort)
    assert not torch.equal(cohorts[0].weights["head.weight"], cohorts[1].weights["head.weight"])


# --- anyone's module --------------------------------------------------------------------------------------------------


COUNT = itertools.count()


class Net(nn.Module):
    """As someone would write it who has never heard of this package."""

    def __init__(self, table, kind):
        super().__init__()
        self.embedding = nn.Embedding(len(table.vocabulary), 16)
        self.register_buffer("mask", torch.ones(len(table.positions), len(table.positions)).tril() == 0)
        self.kind = kind
        if kind == "encoder":
            self.body = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        elif kind == "lstm":
            self.body = nn.LSTM(16, 16, batch_first=True)
        elif kind == "batchnorm":
            self.body = nn.BatchNorm1d(len(table.positions))
        elif kind == "stray":
            self.stray = nn.Parameter(torch.zeros(16))
            self.body = nn.Identity()
        else:
            self.body = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.2), nn.LayerNorm(16))
        self.head = nn.Linear(16, table.classes + (kind == "scores"))
        if kind == "frozen":
            self.embedding.weight.requires_grad_(False)
        if kind == "numpy" and self.head.weight.device.type != "meta":
            self.head.weight.data += torch.tensor(next(COUNT))  # as whatever no seed governs
        if kind == "tied":
            self.out = nn.Linear(16, len(table.vocabulary), bias=False)
            self.out.weight = self.embedding.weight
        if kind == "buffer":
            self.register_buffer("ids", torch.arange(len(table.positions)))
            self.register_buffer("shift", torch.randn(16))

    def forward(self, tokens):
        x = self.embedding(tokens)
        x = self.body(x, src_mask=self.mask) if self.kind == "encoder" else self.body(x)
        if self.kind == "drop":
            x = F.dropout(x, 0.2, self.training)
        if self.kind == "inplace":
            x = x.exp()
            x += 1
        if self.kind == "buffer":
            x = x[:, self.ids] + self.shift
        scores = self.out(x.sum(1)) if self.kind == "tied" else self.head(x.sum(1))
        return scores[:, :2] if self.kind == "scores" else (scores, x) if self.kind == "two" else scores


@pytest.fixture
def mine():
    @model
    def someones(table, kind: str = "mlp"):
        """Someone's network."""
        if kind == "exit":
            sys.exit(0)
        return None if kind == "nothing" else Net(table, kind)

    yield
    models._entries.pop("someones")


@pytest.mark.parametrize("kind", ["mlp", "encoder"])
def test_anyones_module_trains_as_it_does_alone(mine, kind):
    specs = [run_spec({**SMALL, "model.name": "someones", "model.kind": kind, **SGD}, s) for s in range(2)]
    roles = {name: law.role.value for name, law in declarations(specs[0].setting.model()).items()}
    assert (roles["embedding.weight"], roles["head.weight"], roles["head.bias"]) == ("embedding", "head", "bias")
    assert {role for name, role in roles.items() if "norm" in name or "body.3" in name} == {"gain", "bias"}
    trainer = Trainer(specs[0].setting, CPU)
    cohort = start(specs, CPU, places=trainer.places)
    plain = specs[0].setting.model("cpu")
    plain.load_state_dict({name: w[0].clone() for name, w in cohort.weights.items()}, strict=False)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for step in range(5):
        if kind == "encoder":  # torch's own loop (the other kind has dropout, whose masks are the run's own)
            rows = trainer.data.batch(cohort)[0]
            sgd.param_groups[0]["lr"] = 0.1 * min(1, (step + 1) / 10)
            sgd.zero_grad()
            F.cross_entropy(plain.train()(trainer.data.tokens[rows]), trainer.data.labels[rows]).backward()
            sgd.step()
        trainer.advance(cohort)
    assert all(cohort.finite)
    for name, p in plain.named_parameters() if kind == "encoder" else ():
        assert torch.allclose(cohort.weights[name][0], p, atol=1e-6), name


def test_what_modules_draw_comes_from_the_runs_seed_and_leaves_the_global_generator_alone(mine):
    spec = run_spec({**SMALL, "model.name": "someones"}, 0)
    before = torch.get_rng_state()
    one, again, other = (spec.setting.initial_weights(seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    bound = 16**-0.5
    assert 0.9 * bound < one["head.weight"].abs().max() <= bound  # as `torch.nn.Linear` draws
    kaiming = run_spec({**SMALL, "model.name": "someones", "init.name": "kaiming"}, 0).setting.initial_weights(0)
    assert kaiming["head.weight"].std().item() == pytest.approx(math.sqrt(2 / 16), rel=0.3)
    assert torch.equal(kaiming["embedding.weight"], one["embedding.weight"])
    tripled = run_spec({**SMALL, "model.name": "someones", "init.scale": 3.0}, 0).setting.initial_weights(0)
    assert torch.allclose(tripled["head.weight"], 3 * one["head.weight"])


def test_dropout_of_torch_is_replaced_by_masks_of_the_run(mine):
    spec = run_spec({**SMALL, "model.name": "someones"}, 0)
    made = spec.setting.model("cpu").train()
    tokens = torch.from_numpy(spec.setting.table().tokens)
    weights = spec.setting.initial_weights(0)
    keys = [{"body.2.key": torch.tensor(key)} for key in (1, 1, 2)]
    first, same, different = (functional_call(made, {**weights, **key}, (tokens,)) for key in keys)
    assert torch.equal(first, same)
    assert not torch.equal(first, different)


@pytest.mark.parametrize("kind", ["encoder", "tied", "buffer"])
def test_a_module_with_what_modules_have_keeps_the_promises(mine, kind):
    check_model("someones", model__kind=kind)


def test_buffers_are_drawn_from_one_seed_and_the_global_generator_is_as_it_was(mine):
    setting = run_spec({**SMALL, "model.name": "someones", "model.kind": "buffer"}, 0).setting
    before = torch.get_rng_state()
    first = dict(setting.model("cpu").named_buffers())["shift"]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        assert torch.equal(dict(setting.model("cpu").named_buffers())["shift"], first)
    assert torch.equal(dict(setting.started_model().named_buffers())["shift"], first)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_head_is_declared_or_the_last_linear_map():
    with torch.device("meta"):
        both = nn.ModuleDict({"last": nn.Linear(3, 3), "first": Linear(3, 2, bias=False, role=Role.HEAD)})
    assert {n: law.role for n, law in declarations(both).items() if n.endswith("weight")} == {
        "last.weight": Role.HIDDEN,
        "first.weight": Role.HEAD,
    }


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("lstm", "body is an LSTM of torch.nn, which cannot be lifted over runs; take the model lstm"),
        ("frozen", "embedding.weight asks for no gradient, but every parameter is trained; make it a buffer"),
        ("numpy", "model 'someones', built twice from one seed, differs in head.weight; draw from PyTorch's"),
        ("exit", r"model 'someones' fails with \{'kind': 'exit'\}: it calls sys.exit\(0\)"),
        ("nothing", "it returns NoneType; a model returns an nn.Module"),
        ("two", "model 'someones': it returns a tuple; a model returns its scores, one tensor"),
        ("drop", "model 'someones' fails on tokens .*random operation.*: use nn.Dropout, whose masks are a run's own"),
        ("inplace", "model 'someones' fails on tokens .*modified by an inplace operation"),
        ("batchnorm", r"the model has BatchNorm1d \(body\), which mixes the examples of a batch; use LayerNorm"),
        ("stray", "parameters without a role: stray; create them in a grokking.roles.Declaring"),
        ("scores", r"model 'someones' returns scores \[3, 2\]; they must be \[3, 7\]"),
    ],
)
def test_a_module_that_cannot_be_trained_here_is_told_why(mine, kind, message):
    with pytest.raises(BadInput, match=message):
        run_spec({**SMALL, "model.name": "someones", "model.kind": kind}, 0)


def test_an_lstm_reads_as_many_numbers_for_a_token_as_it_is_wide_unless_told():
    for told, wide in (({}, 16), ({"model.embedding": 8}, 8)):
        model = run_spec({"model.name": "lstm", "model.width": 16, **told}, 0).setting.model()
        assert model.embedding.weight.shape[1] == model.layers[0].entering.weight.shape[1] == wide
    with pytest.raises(BadInput, match=r"model\.embedding = -1; allowed: integers from 0 on"):
        run_spec({"model.name": "lstm", "model.embedding": -1}, 0).setting.model()
