"""Settings that came when runs had been published already, with the value that those runs had.

Descriptions and tables leave such a setting out where it has this value, and whoever reads a table puts it back: so a run
keeps its run_id, and its line, when the package learns something new.
"""

LATER: dict[str, bool | int | float | str] = {"precision": "fp32"}
