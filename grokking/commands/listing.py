"""`grokking list`: all that there is of one kind, and all that is said of one thing."""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from grokking.commands.arguments import Imports, Set, told_beside
from grokking.errors import BadInput

if TYPE_CHECKING:
    from grokking.registry import Entry, Settings

FLAGS = {  # setting → which argument says it
    "model.name": "--model",
    "optimizer.name": "--optimizer",
    "scaling.name": "the name behind scaling",
    "model.width": "--width",
    "scaling.base_width": "--base",
}


def list_(
    kind: Annotated[
        Literal[
            "tasks",
            "optimizers",
            "transforms",
            "models",
            "losses",
            "schedules",
            "inits",
            "measures",
            "recipes",
            "scaling",
        ],
        tyro.conf.Positional,
    ],
    name: Annotated[str, tyro.conf.Positional] = "",
    /,
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False,
    imports: Imports = (),
    model: str | None = None,
    optimizer: str | None = None,
    width: int | None = None,
    base: int | None = None,
    set: Set = (),
) -> int:
    """Name, one line, formula, numbers with defaults and source of everything of one kind; all that is said of one thing.

    Args:
        kind: what to list.
        name: of one of them, such as muon: what each of its options means, too.
        verbose: of each task, show three examples, too; of each recipe, all that is said of it.
        imports: modules of your own to load first.
        model: of scaling: of this model, the factors of every parameter (transformer, unless said).
        optimizer: of scaling: with this optimizer (adamw, unless said).
        width: of scaling: at this model.width (1024, unless said).
        base: of scaling: and this base width, at which all factors are 1 (64, unless said).
        set: of scaling: other settings, such as optimizer.matrices=all or model.bias=true.
    """
    from grokking.extensions import import_extensions
    from grokking.measures import measures
    from grokking.optim.transforms import transforms
    from grokking.setting import KINDS

    import_extensions(imports)
    of_scaling = {
        "--model": model,
        "--optimizer": optimizer,
        "--width": width,
        "--base": base,
        "--set": " ".join(set) or None,
    }
    if kind != "scaling" and (said := [f"{flag} {value}" for flag, value in of_scaling.items() if value is not None]):
        raise BadInput(f"{said[0]}: {kind} do not depend on it; only `grokking list scaling` reads it")
    if kind == "recipes":
        print(_recipes(name, verbose))
        return 0
    registry = next(r for r in (*KINDS.values(), transforms, measures) if kind in (r.kind, r.kind + "s", r.kind + "es"))
    entry, factors = registry[name] if name else None, ""
    if kind == "scaling":  # before anything is printed, as it may be refused
        names: Settings = {"model.name": model or "transformer", "optimizer.name": optimizer or "adamw"}
        rule: Settings = {"scaling.name": name or "mup"}
        sizes = (1024 if width is None else width, 64 if base is None else base)
        factors = _factors({**told_beside(set, FLAGS), **names, **rule}, *sizes)
    if entry is not None:
        print(f"{entry.name}: {inspect.cleandoc(entry.make.__doc__ or '')}\n\n{_defaults(entry)}")
        if kind == "models":
            print(f"\n{roles_of_model(name)}")
        if factors:
            print(f"\n{factors}")
        return 0
    column = max(len(name) for name in registry) + 2
    for entry in registry.values():
        source = entry.source and f"source: {entry.source}"
        examples = _examples(entry, verbose) if kind == "tasks" else ()
        parts = (entry.summary, entry.formula, _defaults(entry), source, *examples)
        lines = [line for line in dict.fromkeys(parts) if line]
        print(f"{entry.name:{column}s}" + f"\n{'':{column}s}".join(lines))
    if kind == "optimizers":
        print(
            "\nand any torch.optim.Optimizer by its dotted name, trained one run at a time: torch.optim.NAdam, "
            "pytorch_optimizer.SophiaH, or my_file.MyOptimizer after --import my_file.py"
        )
    if factors:
        print(f"\nmup:\n{factors}")
    return 0


def _factors(settings: "Settings", width: int, base: int) -> str:
    """A table of what a scaling rule multiplies, part by part."""
    from grokking.runs import run_spec

    changing = {} if settings["scaling.name"] == "standard" else {"scaling.base_width": base}
    setting = run_spec({"task.name": "mod_add", **settings, "model.width": width, **changing}, 0).setting
    parts, numbers = setting.parts(), ("init", "forward", "lr", "weight_decay", "eps")
    rows = [("part", "shape", "role", "update", *numbers)]
    for name, own in setting.factors.items():
        part = parts[name]
        update = part.update.geometry.value + ", decay in the gradient" * part.update.coupled if part.update else "–"
        shown = [f"{getattr(own, number):.4g}" for number in numbers]
        rows.append((name, " × ".join(map(str, part.shape)), part.role.value, update, *shown))
    told = f"{settings['model.name']}, {settings['optimizer.name']}, width {width} over {base}"
    return f"{_aligned(rows)}\n{told}: what initial values, what passes, and the optimizer's numbers are multiplied by"


def roles_of_model(name: str) -> str:
    """A table of the parameters of a model at its defaults, on x + y: declared roles, or those of its modules' types."""
    from grokking.roles import role_table
    from grokking.runs import run_spec

    model = run_spec({"model.name": name}, 0).setting.model()
    rows = [("parameter", "shape", "role", "at the start"), *role_table(model)]
    count = sum(parameter.numel() for parameter in model.parameters())
    return f"{_aligned(rows)}\n{count:,} parameters, with options at their defaults and on the default task"


def _recipes(name: str, verbose: bool) -> str:
    """A table of all recipes; all that is said of each; or of one, with its settings."""
    from grokking.recipes import RECIPES, recipe

    if not name and not verbose:
        head = ("recipe", "task, share for training", "model", "optimizer, rate, decay", "batch", "steps", "published")
        rows = [head, *(_recipe_row(name) for name in RECIPES)]
        return (
            _aligned(rows)
            + "\n\nof each, what is stated, what is open and what its code does: grokking list recipes NAME"
        )

    def told(name: str) -> list[str]:
        r = recipe(name)
        parts = {"source": r.source, "stated": r.stated, "open": r.open, "its code": r.code, "published": r.published}
        return [name, *(f"  {word}: {text}" for word, text in parts.items() if text)]

    if not name:
        return "\n\n".join("\n".join(told(name)) for name in RECIPES)
    settings = " ".join(f"{key}={value}" for key, value in recipe(name).settings.items())
    return "\n".join([*told(name), f"  settings: {settings}"])


def _recipe_row(name: str) -> tuple[str, ...]:
    """A line of the table of recipes; what a task, model or optimizer does not have is left out."""
    from grokking.recipes import published_steps, recipe
    from grokking.runs import run_spec

    spec = run_spec(recipe(name).settings, 0)
    told = {**spec.setting.by_name, **dict(spec.hyper)}
    return (
        name,
        f"{told['task.name']} {told.get('task.p', '')}".rstrip() + f", {told['train_fraction']:.0%}",
        f"{told['model.name']} {told.get('model.depth', '')} × {told.get('model.width', '')}".removesuffix("  × "),
        f"{told['optimizer.name']} {told.get('optimizer.lr', 0):g}, {told.get('optimizer.weight_decay', 0):g}"
        + "".join(f" + {transform}" for transform in spec.setting.transforms),
        str(told["batch_size"] or "all"),
        f"{told['steps']:,}",
        published_steps(recipe(name).within),
    )


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _defaults(entry: "Entry") -> str:
    """Its options with their defaults."""
    return " ".join(f"{name}={value}" for name, value in entry.defaults.items())


def _examples(entry: "Entry", verbose: bool) -> list[str]:
    """How many examples a task has, and three of them as a person reads them."""
    table = entry.make(**entry.defaults)
    count = len(table.labels)
    shown = [table.show(int(count * part)) for part in (0.31, 0.62, 0.83)] if verbose else []
    return [
        f"{count:,} examples, {len(table.vocabulary)} tokens",
        *(repr(text) if not table.separator else text for text in shown),
    ]
