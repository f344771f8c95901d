"""Figures: what a measurement found, beside its target, as a table or as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import IO


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    figure: str
    value: float
    unit: str
    target: str  # the target in words, such as `<= 0.7`; empty for none
    holds: bool | None  # None where there is no target
    spread: tuple[float, float] | None = None  # lowest and highest of the repetitions
    note: str = ""  # defines a word of the figure


def at_most(figure: str, values: Sequence[float], unit: str, limit: float) -> Figure:
    """The median of repeated measurements, which should not be above `limit`."""
    value = statistics.median(values)
    return Figure(figure, value, unit, f"<= {limit:g}", value <= limit, (min(values), max(values)))


def at_least(figure: str, values: Sequence[float], unit: str, limit: float) -> Figure:
    """The median of repeated measurements, which should not be below `limit`."""
    value = statistics.median(values)
    return Figure(figure, value, unit, f">= {limit:g}", value >= limit, (min(values), max(values)))


def report(figures: Sequence[Figure], out: IO[str], *, as_json: bool) -> int:
    """Write a row per figure to `out`; return 1 where a target does not hold, else 0."""
    if as_json:
        rows = [{key: value for key, value in asdict(each).items() if key != "note" or value} for each in figures]
        out.write(json.dumps(rows, indent=2) + "\n")
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("figure", "value", "unit", "target", "holds", "spread")
        for figure in figures:
            spread = f"{figure.spread[0]:.4g} - {figure.spread[1]:.4g}" if figure.spread else ""
            holds = {True: "yes", False: "NO", None: ""}[figure.holds]
            table.add_row(figure.figure, f"{figure.value:.4g}", figure.unit, figure.target, holds, spread)
        Console(file=out).print(table)
        out.writelines(f"{note}\n" for note in dict.fromkeys(figure.note for figure in figures) if note)
    return int(any(figure.holds is False for figure in figures))
