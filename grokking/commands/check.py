"""`grokking selfcheck`: try on this machine what is promised everywhere."""

import sys
import tempfile
from pathlib import Path
from typing import Literal


def selfcheck(device: str = "auto", compile: Literal["on", "off"] = "off") -> int:
    """Try the promises: the same runs, trained in every way that must not matter, are the same bits. Under a minute.

    Args:
        device: auto, cpu or cuda.
        compile: on: with compiled steps; compiling takes minutes more.
    """
    from tqdm import tqdm

    from grokking.engine.compiled import check_compiling
    from grokking.execute.local import choose_device
    from grokking.execute.unit import Terms
    from grokking.selfcheck import promises, selfcheck

    if compile == "on":
        check_compiling()
    broken = 0
    with tempfile.TemporaryDirectory() as place:
        terms = Terms(Path(place), choose_device(device), compile == "on")
        bar = tqdm(selfcheck(terms), total=promises(terms), file=sys.stderr, leave=False, desc="promises")
        for promise in bar:
            broken += not promise.held
            with bar.external_write_mode(sys.stdout):
                print(
                    f"{'pass' if promise.held else 'FAIL'}  {promise.text}{promise.seen and '; seen: '}{promise.seen}"
                )
    return 1 if broken else 0
