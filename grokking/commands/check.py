"""`grokking selfcheck` and `grokking check`: try on this machine what is promised everywhere, and of every optimizer."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

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


def check(names: Annotated[tuple[str, ...], tyro.conf.Positional], /) -> int:
    """Try what every optimizer and every transform has to keep: on those that a file of yours registers, or by name.

    Args:
        names: .py files or modules of your own (all that they register), or names: adamw clip_norm torch.optim.NAdam.
    """
    from grokking.errors import BadInput
    from grokking.extensions import import_extension
    from grokking.optim import optimizers
    from grokking.optim.transforms import transforms
    from grokking.testing import optimizer_promises, transform_promises

    if not names:
        raise BadInput("check needs a .py file or a name, such as my_rule.py or adamw")
    tried: list[tuple[str, Iterator[Promise]]] = []
    for name in names:
        if name in transforms:
            tried.append((name, transform_promises(name)))
        elif name in optimizers or not name.endswith(".py"):
            tried.append((name, optimizer_promises(name)))
        else:
            module = import_extension(name).__name__
            own = [
                (found, optimizer_promises(found))
                for found in optimizers
                if optimizers[found].make.__module__ == module
            ]
            own += [
                (found, transform_promises(found))
                for found in transforms
                if transforms[found].make.__module__ == module
            ]
            if not own:
                raise BadInput(
                    f"{name} registers no optimizer and no transform; decorate one with @optimizer(…) or @transform(…)"
                )
            tried += own
    code = 0
    for name, promises in tried:
        print(name)
        code = max(code, _tell(promises))
    return code


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
