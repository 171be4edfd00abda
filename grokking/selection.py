"""Choosing on tuning seeds, reporting on others."""

import pandas as pd

FIRST_TUNING_SEED = 1000  # seeds from here on choose, those below report


def split(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs that choose and the runs that report, told apart by their seeds: no run is both."""
    tuning = runs["seed"] >= FIRST_TUNING_SEED
    return runs[tuning], runs[~tuning]
