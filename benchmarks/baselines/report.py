"""The report of a comparison: a table in Markdown, and whether routers that learn are worth their price."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from benchmarks.baselines.comparison import LEARNED, Row
from benchmarks.baselines.router import RouterError
from benchmarks.evaluation_table import interval_text
from benchmarks.statistics import Comparison, compare, mean_interval

REFERENCE = "best_constant"  # the best single system, chosen on the training questions
_HEAD = "| router | λ | right, 95 % | USD per 1k | against the best single, 95 % | p | chose |"


def table(rows: Sequence[Row]) -> str:
    """A line for each row; rows that do not change with λ are told once."""
    lines = [_HEAD, "| --- | --- | --- | --- | --- | --- | --- |"]
    reference = _reference(rows)
    for _, group in groupby(rows, key=lambda row: row.name):
        same = list(group)
        fixed = all(row.outcomes == same[0].outcomes for row in same)
        lines += [_line(row, reference, "any" if fixed else f"{row.lambda_:g}") for row in same[: 1 if fixed else None]]
    return "\n".join(lines)


def verdicts(rows: Sequence[Row]) -> list[str]:
    """For each router that learns, a sentence: is it at least as good as the best single system at no higher price?

    Its λ is the best of those tried on these very questions, so the answer flatters it.
    """
    reference = _reference(rows)
    assert reference.evaluation is not None
    price = reference.evaluation.cost_usd_per_1k_questions
    found = []
    for name in LEARNED:
        mine = [row for row in rows if row.name == name and row.evaluation is not None]
        if not mine:
            continue
        affordable = [row for row in mine if row.evaluation and row.evaluation.cost_usd_per_1k_questions <= price]
        if not affordable:
            found.append(f"{name}: dearer than the best single system at every λ tried")
            continue
        best = max(affordable, key=lambda row: (row.evaluation.em if row.evaluation else 0.0, row.lambda_))
        assert best.evaluation is not None
        usd = best.evaluation.cost_usd_per_1k_questions
        found.append(
            f"{name} at λ={best.lambda_:g}: {_judge(_against(best, reference))}; {best.evaluation.em:.3f} against "
            f"{reference.evaluation.em:.3f} at {usd / price if price else 1:.0%} of the price"
        )
    return found


def _judge(found: Comparison) -> str:
    difference = found.difference
    if difference.low > 0:
        return "better than the best single system"
    if difference.high < 0:
        return "WORSE than the best single system"
    if difference.mean < 0:
        return "NOT as good as the best single system, by less than the interval can tell"
    return "at least as good as the best single system, by no more than the interval can tell"


def _line(row: Row, reference: Row, lambda_: str) -> str:
    if row.evaluation is None:
        return f"| {row.name} | {lambda_} | left out: {row.left_out} | | | | |"
    right = mean_interval([outcome.em for outcome in row.outcomes])
    against = _against(row, reference)
    gap = against.difference
    return (
        f"| {row.name} | {lambda_} | {interval_text(right)} "
        f"| {row.evaluation.cost_usd_per_1k_questions:.4g} | {interval_text(gap, '+.3f')} "
        f"| {against.p_value:.2g} | {row.chosen} |"
    )


def _against(row: Row, reference: Row) -> Comparison:
    return compare([outcome.em for outcome in row.outcomes], [outcome.em for outcome in reference.outcomes])


def _reference(rows: Sequence[Row]) -> Row:
    for row in rows:
        if row.name == REFERENCE and row.evaluation is not None:
            return row
    raise RouterError(f"the rows hold no {REFERENCE!r} to compare with; add it to the names")
