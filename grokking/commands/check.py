"""`grokking selfcheck` and `grokking check`: try on this machine what is promised everywhere, and of every optimizer."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from grokking.commands.arguments import Imports
from grokking.errors import BadInput

if TYPE_CHECKING:
    from grokking.selfcheck import Promise


def selfcheck(device: str = "auto", compile: Literal["on", "off"] = "off") -> int:
    """Try the promises: the same runs, trained in every way that must not matter, are the same bits. Under a minute.

    Args:
        device: auto, cpu or cuda.
        compile: on: with compiled steps; compiling takes minutes more.
    """
    from grokking.engine.compiled import check_compiling
    from grokking.execute.local import choose_device
    from grokking.execute.unit import Terms
    from grokking.selfcheck import promises, selfcheck

    if compile == "on":
        check_compiling()
    with tempfile.TemporaryDirectory() as place:
        terms = Terms(Path(place), choose_device(device), compile == "on")
        return _tell(selfcheck(terms), promises(terms))


def check(names: Annotated[tuple[str, ...], tyro.conf.Positional], /, imports: Imports = ()) -> int:
    """Try what every optimizer, transform, schedule, model, task, loss and init has to keep: those of your file, or by name.

    Args:
        names: .py files of your own (all of these that they register), or names: adamw clip_norm mlp gcd torch.optim.NAdam.
        imports: files that hold what is named: my_file.MyOptimizer after --import my_file.py.
    """
    from grokking.commands.listing import roles_of_model
    from grokking.extensions import import_extensions
    from grokking.testing import kind_of, promises_of

    if not names:
        raise BadInput("check needs a .py file or a name, such as my_rule.py or adamw")
    import_extensions(imports)
    tried = [thing for given in names for thing in (_registered(given) if given.endswith(".py") else [kind_of(given)])]
    code = 0
    for kind, name in tried:
        print(name)
        try:
            if kind == "model":
                print(roles_of_model(name))
            code = max(code, _tell(promises_of(kind, name)))
        except BadInput as error:  # it cannot even be tried; the others can
            print(f"FAIL  {error}")
            code = 1
    return code


def _registered(path: str) -> list[tuple[str, str]]:
    """What a user's file registers and can be tried: kind and name of each."""
    from grokking.extensions import import_extension
    from grokking.testing import CHECKED

    module = import_extension(path).__name__
    own = [
        (kind, name) for kind, (there, _) in CHECKED.items() for name in there if there[name].make.__module__ == module
    ]
    if not own:
        raise BadInput(
            f"{path} registers no {', no '.join(CHECKED)}; decorate one with @optimizer(…), @transform(…), @schedule, "
            f"@model, @task, @loss or @init, or name a class in it: grokking check {Path(path).stem}.MyOptimizer --import {path}"
        )
    return own


def _tell(promises: Iterator["Promise"], total: int | None = None) -> int:
    """Try them one after the other and say of each whether it held; 1 if one did not."""
    from tqdm import tqdm

    broken = 0
    bar = tqdm(promises, total=total, file=sys.stderr, leave=False, desc="promises")
    for promise in bar:
        broken += not promise.held
        with bar.external_write_mode(sys.stdout):
            print(f"{'pass' if promise.held else 'FAIL'}  {promise.text}{promise.seen and '; seen: '}{promise.seen}")
    return 1 if broken else 0
