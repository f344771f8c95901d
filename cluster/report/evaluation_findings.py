"""The findings of an evaluation: is the policy better than the obvious alternatives, at what price, and is it real."""

from __future__ import annotations

import math

from benchmarks.evaluation.collapse import Constant, collapse_alarm
from benchmarks.evaluation.formats import bounds, percent, point_bounds, points
from benchmarks.evaluation.item import Item
from benchmarks.evaluation.means import Evaluation
from benchmarks.evaluation.methods import (
    ALONE,
    BEST_CONSTANT_HINDSIGHT,
    BEST_CONSTANT_TRAINING,
    CHEAPEST_RIGHT,
    METHODS,
    RANDOM,
)
from benchmarks.evaluation.row_summary import RowSummary, against
from benchmarks.evaluation.statistics import Comparison, Interval
from cluster.evaluation.record import EvaluationRecord
from cluster.report.run_tables import usd

_LEVEL = 0.05  # p-values below tell rows apart
_IDEAL = METHODS[CHEAPEST_RIGHT].name
_LOST_ALARM = 0.05  # of a policy's episodes
# Baselines that ignore the question, or know the answer.
_PLAIN = (RANDOM, "largest", "cheapest", BEST_CONSTANT_TRAINING, CHEAPEST_RIGHT)


def subject(record: EvaluationRecord) -> RowSummary:
    """The row that the page is about: the first that a policy played, else the best router, else the best row."""
    if record.policies:
        return record.policies[0]
    return (
        _best(_routers(record)) or _best([row for row in record.rows if row.name != CHEAPEST_RIGHT]) or record.rows[0]
    )


def best_constant(record: EvaluationRecord) -> RowSummary | None:
    """The best constant in training; where there is no such row, the best constant in hindsight."""
    return _row(record, BEST_CONSTANT_TRAINING) or _best(_alone(record))


def methods_shown(record: EvaluationRecord) -> list[str]:
    """The rows, and the best constant that the sentences name; what these are is to be told beside them."""
    single = best_constant(record)
    return [*(row.name for row in record.rows), *([_constant_method(single)] if single else [])]


def status(record: EvaluationRecord) -> str:
    """What was asked of whom, in a line."""
    asked, protocol = record.about.get("asked", "questions unknown"), record.about.get("protocol", "unknown")
    return f"Finished · {asked} · protocol {protocol} · pool {record.pool}"


def result(record: EvaluationRecord) -> list[str]:
    """How often the subject is right and at what price; against the best constant, the best baseline, the
    cheapest right candidate."""
    ours, single, ideal = subject(record), best_constant(record), _row(record, CHEAPEST_RIGHT)
    baseline = _best(_routers(record)) if record.policies else None
    said = [] if record.policies else ["No policy is in this evaluation: it compares baselines among themselves."]
    whole = f" ({bounds(ours.em)} at 95 %)" if ours.em.known else ""
    own = f", and its own tokens {usd(ours.policy_usd_per_1k)}" if ours.policy_usd_per_1k else ""
    said.append(
        f"{_who(record, ours)} answers {percent(ours.em.mean)} % of {_asked(record, ours)} exactly{whole}. The "
        f"candidates' price of 1,000 questions is {usd(ours.usd_per_1k)}{own}."
    )
    if single is not None and single.name != ours.name:
        said.append(_versus(record, ours, single, f"the {_constant_name(single)} ({_candidate(single)})"))
    if baseline is not None:
        said.append(_versus(record, ours, baseline, f"the best router among the baselines ({baseline.name})"))
    if single is None and baseline is None:
        said.append("No baseline stands beside it, so that nothing is known of the alternatives.")
    if baseline is not None or not record.policies:
        said.append("The best router was picked by these very questions, which flatters it somewhat.")
    hindsight = _best(_alone(record))
    if single is not None and hindsight is not None and hindsight.em.mean > single.em.mean:
        said.append(
            f"The {_constant_name(single)} was chosen on other questions; on these {_candidate(hindsight)} is better, "
            f"with {percent(hindsight.em.mean)} % at {usd(hindsight.usd_per_1k)}."
        )
    if ideal is not None:
        said.append(_below(record, ours, single, ideal))
    return said


def figures(record: EvaluationRecord) -> list[tuple[str, str]]:
    """The few numbers to see first, by their names."""
    ours, single, ideal = subject(record), best_constant(record), _row(record, CHEAPEST_RIGHT)
    found = [("Exact match" if record.policies else f"Exact match of {ours.name}", f"{percent(ours.em.mean)} %")]
    if single is not None:
        found.append((_constant_name(single).capitalize(), f"{percent(single.em.mean)} %"))
    if ideal is not None:
        found.append((_IDEAL.capitalize(), f"{percent(ideal.em.mean)} %"))
    if single is not None and ideal is not None and (closed := _closed(ours, single, ideal)) is not None:
        share = f"{100 * closed:.0f} %".replace("-", "−")
        found.append((f"Gap from {_constant_name(single)} to {_IDEAL} closed", share))
    price = ours.usd_per_1k + ours.policy_usd_per_1k
    return [*found, ("Price of 1,000 questions", usd(price)), ("Spent by the evaluation", usd(record.spent_usd))]


def alarms(record: EvaluationRecord) -> list[str]:
    """What is wrong, in sentences: a policy that does not route or is no better than one candidate, lost episodes."""
    single, said = best_constant(record), list[str]()
    for row in record.policies:
        alarm = collapse_alarm(_evaluation(row), _constant(single), candidates=len(record.cards))
        if alarm:
            said.append(alarm if row is record.policies[0] else f"{row.name}: {alarm}")
        asked = row.questions * row.samples + row.lost
        if row.lost / asked > _LOST_ALARM:
            said.append(
                f"{row.name}: {row.lost:,} of {asked:,} episodes failed, and are in no number; the same command plays "
                "them again."
            )
    return said


def compare_rows(record: EvaluationRecord, ours: str, theirs: str) -> tuple[Comparison, bool] | None:
    """A row against another, and whether the p-value is adjusted for all comparisons of the evaluation: as it was
    compared there, else anew from the items. None where no question was answered by both."""
    for row, other, sign in ((ours, theirs, 1), (theirs, ours, -1)):
        found = record.against.get(row)
        if found is not None and found.reference == other:
            gap = found.comparison.difference
            turned = gap if sign > 0 else Interval(-gap.mean, -gap.high, -gap.low, gap.questions)
            return Comparison(turned, found.p_holm, found.comparison.test), True
    items: dict[str, list[Item]] = {ours: [], theirs: []}
    for item in record.read_items():
        if item.row in items:
            items[item.row].append(item)
    again = against(items, theirs).get(ours)
    return None if again is None else (again.comparison, False)


def _versus(record: EvaluationRecord, ours: RowSummary, theirs: RowSummary, name: str) -> str:
    found = compare_rows(record, ours.name, theirs.name)
    gap = found[0].difference if found else Interval(ours.em.mean - theirs.em.mean, math.nan, math.nan, 0)
    alike = abs(gap.mean) < 1e-9
    better = "as good as" if alike else f"{_size(gap.mean)} points {'better' if gap.mean > 0 else 'worse'} than"
    interval = f"; the difference lies in {point_bounds(gap)} points at 95 %" if gap.known and not alike else ""
    return (
        f"{_who(record, ours)} is {better} {name}, which answers {percent(theirs.em.mean)} %{interval}. {_real(found)} "
        f"{_who(record, ours)} {_dearer(ours, theirs)}."
    )


def _below(record: EvaluationRecord, ours: RowSummary, single: RowSummary | None, ideal: RowSummary) -> str:
    closed, short = _closed(ours, single, ideal), ideal.em.mean - ours.em.mean
    share = (
        ""
        if single is None or closed is None or closed <= 0
        else f", and closes {100 * closed:.0f} % of the gap between the {_constant_name(single)} and it"
    )
    reached = f"stays {_size(short)} points below" if short > 1e-9 else "reaches no less"
    return (
        f"The {_IDEAL}, which knows the answers, is right on {percent(ideal.em.mean)} % at {usd(ideal.usd_per_1k)} "
        f"per 1,000 questions; {_who(record, ours, start=False)} {reached}{share}."
    )


def _real(found: tuple[Comparison, bool] | None) -> str:
    if found is None:
        return "They answered no question in common, so that no test can tell them apart."
    comparison, adjusted = found
    p = f"p = {comparison.p_value:.2g}, paired by question{', adjusted for all comparisons' if adjusted else ''}"
    return f"The difference is real ({p})." if comparison.p_value < _LEVEL else f"The difference may be chance ({p})."


def _dearer(ours: RowSummary, theirs: RowSummary) -> str:
    mine, other = (row.usd_per_1k + row.policy_usd_per_1k for row in (ours, theirs))
    if math.isclose(mine, other, rel_tol=0.005):
        return f"costs the same ({usd(mine)} per 1,000 questions)"
    told = f"{usd(mine)} against {usd(other)} per 1,000 questions"
    if not other or not mine:
        return f"is {'dearer' if mine > other else 'cheaper'} ({told})"
    ratio = mine / other
    if ratio >= 2:
        return f"costs {ratio:.1f} times as much ({told})"
    return f"costs {100 * abs(ratio - 1):.0f} % {'more' if ratio > 1 else 'less'} ({told})"


def _size(difference: float) -> str:
    return points(abs(difference))[1:]


def _closed(ours: RowSummary, single: RowSummary | None, ideal: RowSummary) -> float | None:
    if single is None or ideal.em.mean <= single.em.mean:
        return None
    return (ours.em.mean - single.em.mean) / (ideal.em.mean - single.em.mean)


def _who(record: EvaluationRecord, row: RowSummary, *, start: bool = True) -> str:
    if not record.policies:
        return row.name
    return "The policy" if start else "the policy"


def _asked(record: EvaluationRecord, row: RowSummary) -> str:
    sets = len(record.sets)
    return f"{row.questions:,} questions" + (f" (mean over {sets} data sets)" if sets > 1 else "")


def _row(record: EvaluationRecord, name: str) -> RowSummary | None:
    return next((row for row in record.rows if row.name == name), None)


def _constant_method(single: RowSummary) -> str:
    return BEST_CONSTANT_TRAINING if single.name == BEST_CONSTANT_TRAINING else BEST_CONSTANT_HINDSIGHT


def _constant_name(single: RowSummary) -> str:
    return METHODS[_constant_method(single)].name


def _candidate(row: RowSummary) -> str:
    return next(iter(row.call_share)) if len(row.call_share) == 1 else row.name


def _routers(record: EvaluationRecord) -> list[RowSummary]:
    """Baselines that choose by the question, and answer without knowing who is right."""
    return [
        row
        for row in record.rows
        if row not in record.policies and row.name not in _PLAIN and not row.name.startswith(f"{ALONE}:")
    ]


def _alone(record: EvaluationRecord) -> list[RowSummary]:
    return [row for row in record.rows if row.name.startswith(f"{ALONE}:")]


def _best(rows: list[RowSummary]) -> RowSummary | None:
    return min(rows, key=lambda row: (-row.em.mean, row.usd_per_1k), default=None)


def _evaluation(row: RowSummary) -> Evaluation:
    f1 = row.f1.mean if row.f1 else math.nan
    usd_per_1k = row.usd_per_1k + row.policy_usd_per_1k
    return Evaluation(row.questions, row.em.mean, f1, usd_per_1k, row.calls, dict(row.call_share))


def _constant(single: RowSummary | None) -> Constant | None:
    if single is None:
        return None
    return Constant(_candidate(single), single.em.mean, single.questions, single.usd_per_1k, _constant_method(single))
