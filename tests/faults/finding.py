"""What a fault showed: a line of the table."""

from dataclasses import asdict, dataclass

import pandas as pd


@dataclass(frozen=True)
class Finding:
    """One measured promise."""

    fault: str
    tried: int
    measured: str
    promised: str
    kept: bool | None  # None: nothing was promised, or it could not be tried here


def table(figures: list[Finding]) -> pd.DataFrame:
    """All of them, a line each."""
    return pd.DataFrame([asdict(figure) for figure in figures])


def markdown(figures: pd.DataFrame) -> str:
    """The table as it stands in REPRODUCING.md."""
    lines = ["| fault | n | measured | promised | kept |", "|---|---|---|---|---|"]
    for row in figures.itertuples():
        kept = "–" if pd.isna(row.kept) else "yes" if row.kept else "NO"
        lines.append(f"| {row.fault} | {row.tried:,} | {row.measured} | {row.promised} | {kept} |")
    return "\n".join(lines)
