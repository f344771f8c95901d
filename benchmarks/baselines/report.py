"""The report of a comparison: a table in Markdown, and whether routers that learn are worth their price."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from benchmarks.baselines.comparison import LEARNED, Row
from benchmarks.baselines.router import RouterError
from benchmarks.baselines.verdicts import NO_SINGLE, Contender, learned_verdicts
from benchmarks.evaluation.formats import interval_text
from benchmarks.evaluation.methods import BEST_CONSTANT_TRAINING
from benchmarks.evaluation.statistics import Comparison, compare, mean_interval
from benchmarks.evaluation.tables import Table, markdown, text_columns

_COLUMNS = ("router", "λ", "right, 95 %", "USD per 1k", f"against {BEST_CONSTANT_TRAINING}, 95 %", "p", "chose")


def table(rows: Sequence[Row]) -> str:
    """A line for each row; rows that do not change with λ are told once."""
    lines: list[Sequence[str]] = []
    reference = _reference(rows)
    for _, group in groupby(rows, key=lambda row: row.name):
        same = list(group)
        fixed = all(row.outcomes == same[0].outcomes for row in same)
        lines += [_line(row, reference, "any" if fixed else f"{row.lambda_:g}") for row in same[: 1 if fixed else None]]
    return markdown(Table("", text_columns(*_COLUMNS), lines))


def verdicts(rows: Sequence[Row]) -> list[str]:
    """What the rows say of each router that learns; see `learned_verdicts`.

    Raises:
        RouterError: the best constant in training is not among the rows.
    """
    reference = _reference(rows)
    learned = {_contender(row): row for row in rows if row.name in LEARNED and row.evaluation is not None}
    return learned_verdicts(learned, _contender(reference), lambda each: _against(learned[each], reference).difference)


def _contender(row: Row) -> Contender:
    assert row.evaluation is not None
    usd = row.evaluation.cost_usd_per_1k_questions
    return Contender(row.name, row.name, row.lambda_, row.evaluation.em, usd)


def _line(row: Row, reference: Row, lambda_: str) -> Sequence[str]:
    if row.evaluation is None:
        return (row.name, lambda_, f"left out: {row.left_out}", "", "", "", "")
    right = interval_text(mean_interval([outcome.em for outcome in row.outcomes]))
    against = _against(row, reference)
    gap, p = interval_text(against.difference, "+.3f"), f"{against.p_value:.2g}"
    return (row.name, lambda_, right, f"{row.evaluation.cost_usd_per_1k_questions:.4g}", gap, p, row.chosen)


def _against(row: Row, reference: Row) -> Comparison:
    return compare([outcome.em for outcome in row.outcomes], [outcome.em for outcome in reference.outcomes])


def _reference(rows: Sequence[Row]) -> Row:
    for row in rows:
        if row.name == BEST_CONSTANT_TRAINING and row.evaluation is not None:
            return row
    raise RouterError(NO_SINGLE)
