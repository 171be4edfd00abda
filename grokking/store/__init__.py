"""The store: immutable directories of results, verified whenever they are read, and the tables that a study asks for.

A store is a folder. `units/` holds one directory per trained cohort, `checkpoints/` what a started cohort continues
from, `failures/` tracebacks, and `index.json` what is known of the units already (delete it at any time). Two stores
merge by copying the directories of one's `units/` into the other's.
"""

from grokking.store.folder import make_writable, prepare
from grokking.store.index import Unit, Verify, check_verify, set_aside_damaged, stored, units
from grokking.store.published import Source, adopted
from grokking.store.tables import Results, load
from grokking.store.units import METRICS, SCHEMA, STEP_COLUMNS, read_runs, unit_name, write_unit

__all__ = [
    "METRICS",
    "SCHEMA",
    "STEP_COLUMNS",
    "Results",
    "Source",
    "Unit",
    "Verify",
    "adopted",
    "check_verify",
    "load",
    "make_writable",
    "prepare",
    "read_runs",
    "set_aside_damaged",
    "stored",
    "unit_name",
    "units",
    "write_unit",
]
