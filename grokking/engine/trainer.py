"""One setting's functions, lifted over the run axis: a step of many runs at once, and an evaluation."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from grokking.engine.cohort import Cohort, Moving, Places, Tensors, compiled_width, never_alone, power_of_two
from grokking.engine.compiled import compiled
from grokking.engine.data import Data
from grokking.engine.recorded import Recorded, RecordedMeasure
from grokking.engine.transforming import Transforming
from grokking.hashing import mix
from grokking.losses import losses
from grokking.measures import measured
from grokking.models.parts import Dropout, widened
from grokking.optim import Numbers, State, optimizers
from grokking.optim.schedules import schedules
from grokking.optim.transforms import transforms
from grokking.optim.trial import waits_for_host
from grokking.registry import is_rate
from grokking.roles import Role, declarations
from grokking.runs import RunSpec
from grokking.scaling import Factors
from grokking.setting import Setting

BLOCK = 10  # steps of a recorded graph
EVALUATED = 1024  # examples at a time: more of them leave a CPU's caches


class Trainer:
    """Takes the steps of cohorts of one setting, and measures them."""

    resumable = True  # from a checkpoint

    def __init__(self, setting: Setting, device: torch.device, compile: bool = False) -> None:
        self.setting, self.device, self.data = setting, device, Data(setting, device)
        self.model = setting.model()
        self.dropouts = [f"{n}.key" for n, module in self.model.named_modules() if isinstance(module, Dropout)]
        self.constants = dict.fromkeys(self.dropouts, torch.zeros((), dtype=torch.int64, device=device))
        if {name for name, _ in self.model.named_buffers()} - set(self.dropouts):
            built = dict(setting.model("cpu").named_buffers())
            self.constants |= {name: value.to(device) for name, value in built.items() if name not in self.dropouts}
        self.roles = {name: law.role for name, law in declarations(self.model).items()}
        self.alike = alike(self.model, setting.factors if setting.scaled else {})
        self.loss = losses[setting.name("loss")].make
        self.rule = optimizers[setting.name("optimizer")].make
        self.schedule = schedules[setting.name("schedule")].make
        self.transforms = [(transforms[name], setting.options(f"transform.{name}")) for name in setting.transforms]
        self.places = places(device.type, compile)
        self.may_look = device.type == "cpu" and not compile  # at a value: it costs nothing there, and saves masks
        self.compile = compile
        self.records_steps = device.type == "cuda" and not self.waits_for_host()
        self._compiled: dict[int, Callable[..., Moving]] = {}  # by width
        self._recorded: dict[int, Recorded] = {}  # by number of steps, all of one width
        self._measure: tuple[list[RunSpec], RecordedMeasure] | None = None  # of these runs

    def waits_for_host(self) -> bool:
        """Whether a step waits for the host, so that no CUDA graph can hold it."""
        rule, options = optimizers[self.setting.name("optimizer")], self.setting.options("optimizer")
        return self.setting.external or waits_for_host(rule, options, self.transforms)

    # --- one step -----------------------------------------------------------------------------------------------

    def advance(self, cohort: Cohort, most: int = 1) -> None:
        """Update every run: once, or on CUDA as often as was recorded, but `most` times at most."""
        self.model.train()
        steps = BLOCK if self.records_steps and most >= BLOCK else 1
        rows = self.data.batches(cohort, steps)
        cohort.moving = (self._replayed if self.records_steps else self._stepped)(cohort, rows)
        cohort.step += steps

    def _stepped(self, cohort: Cohort, rows: Tensor) -> Moving:
        clock = torch.tensor(cohort.step + 1, device=self.device)
        return self._compiled_step(cohort)(cohort.hyper, cohort.seeds, clock, cohort.moving, rows[0])

    def _replayed(self, cohort: Cohort, rows: Tensor) -> Moving:
        steps, runs, _ = rows.shape
        if self._recorded and next(iter(self._recorded.values())).rows.shape[1] != runs:
            self._recorded.clear()  # the buffers of a wider cohort, which is no more
        if steps not in self._recorded:
            self._recorded[steps] = Recorded(
                self._compiled_step(cohort), cohort.hyper, cohort.seeds, cohort.moving, rows
            )
        return self._recorded[steps].replay(cohort.hyper, cohort.seeds, cohort.step + 1, cohort.moving, rows)

    def _compiled_step(self, cohort: Cohort) -> Callable[..., Moving]:
        """`step`, or what it was compiled to for cohorts as wide as this one."""
        if not self.compile:
            return self.step
        runs = len(cohort.specs)
        if runs not in self._compiled:
            clock = torch.tensor(cohort.step + 1, device=self.device)
            numbers = (cohort.hyper, cohort.seeds, clock)
            try:
                self._compiled[runs] = compiled(self.step, numbers, cohort.moving, self.data.batch(cohort))
            except (MemoryError, torch.OutOfMemoryError):
                raise  # the cohort is tried again in halves
            except Exception as error:
                raise RuntimeError(
                    f"the step cannot be compiled ({(str(error).strip() or type(error).__name__).splitlines()[0]}); say --compile off"
                ) from error
        return self._compiled[runs]

    def step(self, hyper: Tensors, seeds: Tensor, clock: Tensor, moving: Moving, rows: Tensor) -> Moving:
        """Update number `clock` [] from table rows [run, batch]; what was given is left as it was.

        A run with a non-finite loss or gradient is frozen and costs its mates nothing.
        """
        factors = self.factors(hyper, clock)
        transforming = Transforming(self.transforms, hyper, factors, self.keys(seeds, clock), clock, self.roles)
        seen, state = transforming.applied("weights", moving.weights, moving.weights, moving.state)
        gradients, loss = self.gradients(
            seen, self.noise(seeds, clock), self.data.tokens[rows], self.data.training_labels(seeds, rows)
        )
        finite = moving.finite & all_finite([loss, *gradients.values()])
        healthy = self.may_look and bool(finite.all())
        if not healthy:
            gradients = {name: where(finite, g, torch.zeros_like(g)) for name, g in gradients.items()}
        gradients, state = transforming.applied("gradients", gradients, moving.weights, state)
        weights, state = self.update(moving.weights, gradients, state, hyper, factors, clock)
        weights, state = transforming.updated(moving.weights, weights, state)
        if healthy:
            return Moving(weights, state, moving.finite, moving.frozen_at)
        return Moving(
            {name: where(finite, w, moving.weights[name]) for name, w in weights.items()},
            {
                name: {slot: where(finite, s, moving.state[name][slot]) for slot, s in slots.items()}
                for name, slots in state.items()
            },
            finite,
            torch.where(moving.finite & ~finite, clock, moving.frozen_at),
        )

    def run_loss(self, weights: Tensors, buffers: Tensors, tokens: Tensor, labels: Tensor) -> Tensor:
        """The loss [] of one run on tokens [example, position]."""
        if self.setting.by_name["precision"] == "bf16":
            weights = {name: w.bfloat16() for name, w in weights.items()}
        scores = self.scores({**weights, **buffers}, tokens)
        return self.loss(scores.to(widened(scores.dtype)), labels, **self.setting.options("loss"))

    def scores(self, weights: Tensors, tokens: Tensor) -> Tensor:
        """Scores [example, class] of one run on tokens [example, position]."""
        with sdpa_kernel(SDPBackend.MATH):  # the others cannot be lifted over the run axis
            return functional_call(self.model, {**self.constants, **weights}, (tokens,))

    def gradients(self, weights: Tensors, noise: Tensors, tokens: Tensor, labels: Tensor) -> tuple[Tensors, Tensor]:
        """Gradient of each run's own loss, and that loss [run]; tokens [run, example, position]."""
        gradients, value = vmap(grad_and_value(self.run_loss))(weights, noise, tokens, labels)
        return gradients, value

    def factors(self, hyper: Tensors, clock: Tensor) -> Tensor:
        """The schedule's factor [run] at update number `clock`; [] where it has no numbers of each run."""
        step, steps = clock.to(torch.float64), self.setting.integer("steps")
        static = self.setting.options("schedule")
        own = {name.removeprefix("schedule."): x for name, x in hyper.items() if name.startswith("schedule.")}
        if not own:
            return self.schedule(step, steps, **static)
        return vmap(lambda numbers: self.schedule(step, steps, **static, **numbers))(own)

    def update(
        self,
        weights: Tensors,
        gradients: Tensors,
        state: dict[str, Tensors],
        hyper: Tensors,
        factors: Tensor,
        clock: Tensor,
    ) -> tuple[Tensors, dict[str, Tensors]]:
        """The rule, applied to each parameter of each run with the run's own numbers; those that are alike at once."""
        numbers = {
            name: value * factors if is_rate(name) else value for name, value in hyper.items() if "." not in name
        }
        static = {**self.setting.options("optimizer"), "step": clock.to(torch.float64)}
        new, after = {}, {}
        for role, own_factors, names in self.alike:
            own = {name: scaled(value, own_factors.of(name)) for name, value in numbers.items()}

            def rule(w: Tensor, g: Tensor, state: Tensors, h: Tensors, role=role) -> tuple[Tensor, Tensors]:  # type: ignore[no-untyped-def]
                new, slots = self.rule(w, g, State(state), Numbers({**static, **h}), role)
                return new, dict(slots)

            kept = [slot for slot in state[names[0]] if "." not in slot]
            before = {slot: together([state[name][slot] for name in names]) for slot in kept}
            w, g = (together([tensors[name] for name in names]) for tensors in (weights, gradients))
            updated, slots = vmap(vmap(rule, (0, 0, 0, None)))(w, g, before, own)
            # Strides decide how a matrix is multiplied, hence bits; a checkpoint keeps none, so neither do we. Nor does
            # state change its type on the way: a float64 number of `h` would turn a 0-d float32 slot into float64.
            for at, name in enumerate(names):
                new[name] = updated[:, at].to(w.dtype).contiguous()
                changed = {slot: s[:, at].to(before[slot].dtype).contiguous() for slot, s in slots.items()}
                after[name] = {**state[name], **changed}
        return {name: new[name] for name in weights}, {name: after[name] for name in weights}

    def keys(self, seeds: Tensor, clock: Tensor) -> Tensor:
        """A hash of (seed, step) for each run [run], from which the randomness of this step follows."""
        return mix(mix(seeds) + clock - 1)

    def noise(self, seeds: Tensor, clock: Tensor) -> Tensors:
        """The dropout keys [run] of this step."""
        return dict.fromkeys(self.dropouts, self.keys(seeds, clock)) if self.dropouts else {}

    # --- evaluation ---------------------------------------------------------------------------------------------

    def evaluate(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """Loss and accuracy [run] on the whole validation set and on the fixed training rows.

        Always in float32 (the precision of the weights), so that runs of another precision are measured alike.
        """
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # no TF32
        try:
            found = self._remeasured(cohort) if self.records_steps else self.measured(cohort)
            return {name: value.cpu().numpy() for name, value in found.items()} | self._looked_at(cohort)
        finally:
            torch.set_float32_matmul_precision(before)

    def _looked_at(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """What the setting's measures say of each run [run], on the CPU, run by run; copies of a run are not looked at again."""
        names = self.setting.measures
        if not names:
            return {}
        model, tokens = self.setting.model("cpu").eval(), self.data.tokens.cpu()
        found: dict[RunSpec, dict[str, float]] = {}
        for run, spec in enumerate(cohort.specs):
            if spec not in found:
                for name, parameter in model.named_parameters():
                    parameter.data = cohort.weights[name][run].detach().cpu().clone()  # whatever a measure does
                found[spec] = measured(names, model, tokens)
        return {name: np.array([found[spec][name] for spec in cohort.specs]) for name in names}

    def finish(self) -> None:
        """Wait for the device to have done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _remeasured(self, cohort: Cohort) -> Tensors:
        """`measured`, recorded: the host has one call to make instead of hundreds, which take longer than the device."""
        if self._measure is None or self._measure[0] != cohort.specs:
            self._measure = None  # the buffers of a wider cohort, which is no more
            rows = self.data.evaluated(cohort)
            measure = RecordedMeasure(lambda weights: self._measured(weights, *rows), cohort.weights)
            self._measure = (cohort.specs, measure)
        return self._measure[1](cohort.weights)

    def measured(self, cohort: Cohort) -> Tensors:
        """What `evaluate` says, as float64 tensors [run] on the device."""
        return self._measured(cohort.weights, *self.data.evaluated(cohort))

    @torch.no_grad()
    def _measured(self, weights: Tensors, rows: Tensor, labels: Tensor, seen: int) -> Tensors:
        self.model.eval()
        parts = rows.chunk(-(-rows.shape[1] // EVALUATED), dim=1)
        scores = torch.cat([vmap(self.scores)(weights, self.data.tokens[part]) for part in parts], dim=1)
        hits = (scores.argmax(-1) == labels).double()
        loss = vmap(lambda scores, labels: self.loss(scores, labels, **self.setting.options("loss")))
        return {
            "train_loss": loss(scores[:, :seen], labels[:, :seen]).double(),
            "validation_loss": loss(scores[:, seen:], labels[:, seen:]).double(),
            "train_accuracy": hits[:, :seen].mean(1),
            "validation_accuracy": hits[:, seen:].mean(1),
        }


def places(device: str, compile: bool) -> Places:
    """How many places so many runs take there."""
    return power_of_two if device == "cuda" else compiled_width if compile else never_alone


def alike(model: nn.Module, factors: Mapping[str, Factors]) -> list[tuple[Role, Factors, list[str]]]:
    """Parameters of one role, shape and scaling, which are updated together: one operation for all layers."""
    groups: dict[tuple[Role, torch.Size, Factors], list[str]] = {}
    for name, law in declarations(model).items():
        key = (law.role, model.get_parameter(name).shape, factors.get(name, Factors()))
        groups.setdefault(key, []).append(name)
    return [(role, factors, names) for (role, _, factors), names in groups.items()]


def scaled(value: Tensor, factor: float) -> Tensor:
    """A number [run] times a factor; 1 leaves its bits, and the compiled step, as they are."""
    return value if factor == 1.0 else value * factor


def together(tensors: Sequence[Tensor]) -> Tensor:
    """[run, …] of several parameters → [run, parameter, …]; a lone one is not copied."""
    return tensors[0].unsqueeze(1) if len(tensors) == 1 else torch.stack(list(tensors), dim=1)


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """[run] bool: whether all that a run has in these tensors [run, …] is finite: infinity - infinity and NaN - NaN are NaN."""
    return torch.stack([(x - x).flatten(1).sum(1) if x.dim() > 1 else x - x for x in tensors]).sum(0) == 0


def where(runs: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` for the runs [run] that are True, `no` for the others; yes, no [run, …]."""
    return torch.where(runs.view(-1, *[1] * (yes.dim() - 1)), yes, no)
