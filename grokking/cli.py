"""The command line: which commands there are, and how their arguments are parsed."""

from typing import Any

import tyro

from grokking.commands.check import check, selfcheck
from grokking.commands.coordinates import coordinates
from grokking.commands.draw import draw
from grokking.commands.listing import list_
from grokking.commands.look import export, status
from grokking.commands.power import power
from grokking.commands.train import run, sweep
from grokking.commands.transfer import transfer
from grokking.commands.tune import tune
from grokking.errors import BadInput


def command_line(arguments: list[str]) -> int:
    """Parse and run one command; returns its exit code."""
    for flag in ("--set", "--import", "--space"):
        if sum(word == flag or word.startswith(flag + "=") for word in arguments) > 1:  # the parser would take the last
            raise BadInput(f"{flag} is given twice; put all of its values behind one {flag}")
    from tyro.extras import subcommand_cli_from_dict

    commands: dict[str, Any] = {
        "list": list_,
        "run": run,
        "sweep": sweep,
        "tune": tune,
        "draw": draw,
        "status": status,
        "export": export,
        "power": power,
        "coordinates": coordinates,
        "transfer": transfer,
        "check": check,
        "selfcheck": selfcheck,
    }
    return int(
        subcommand_cli_from_dict(
            commands,
            prog="grokking",
            description="Measure how long small networks take to generalise after they have memorised.",
            args=arguments,
            config=(tyro.conf.AvoidSubcommands,),
        )
    )
