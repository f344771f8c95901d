"""The verdict on those that learn, in a sentence each: are they as good as the best constant, at its price?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.baselines.comparison import LEARNED
from benchmarks.baselines.rows import BaselineRow
from benchmarks.evaluation.formats import interval_text
from benchmarks.evaluation.methods import BEST_CONSTANT_TRAINING, CHEAPEST_RIGHT, METHODS
from benchmarks.evaluation.row_summary import Against, RowSummary
from benchmarks.evaluation.statistics import Interval

_SAME_PRICE = 1 + 1e-9  # sums in another order are the same price
_SINGLE, _KNOWING = (f"the {METHODS[key].name}" for key in (BEST_CONSTANT_TRAINING, CHEAPEST_RIGHT))
NO_SINGLE = f"no verdict: the rows hold no {BEST_CONSTANT_TRAINING!r} to compare with; add it to the names"
NOBODY = (
    "no verdict: no row was right on any question; look at replies in items.jsonl, and whether anybody knows the field"
)


@dataclass(frozen=True, slots=True)
class Contender:
    """A router at one λ, over the test questions."""

    row: str
    method: str  # the router, whatever its λ
    lambda_: float
    right: float  # mean, in [0, 1]
    usd_per_1k: float


def learned_verdicts(
    contenders: Iterable[Contender], single: Contender, gap: Callable[[Contender], Interval]
) -> list[str]:
    """A sentence for each router, at the λ that suits it best of those at which it is no dearer than the best constant
    in training. That λ is chosen on these very questions, so the answer flatters it.

    Args:
        gap: a contender's share of right answers less the best constant's, question by question.
    """
    by_method: dict[str, list[Contender]] = {}
    for contender in contenders:
        by_method.setdefault(contender.method, []).append(contender)
    found = []
    for method, mine in by_method.items():
        affordable = [each for each in mine if _share(each.usd_per_1k, single) <= _SAME_PRICE]
        if not affordable:
            found.append(f"{method}: NOT at equal or lower price, dearer than {_SINGLE} at every λ tried")
            continue
        best = max(affordable, key=lambda each: (each.right, each.lambda_))
        difference = gap(best)
        found.append(
            f"{method} at λ={best.lambda_:g}: {_judge(difference)}; {best.right:.3f} against {single.right:.3f}, "
            f"{interval_text(difference, '+.3f')}, at {_share(best.usd_per_1k, single):.0%} of the price"
        )
    return found


def verdicts(
    rows: Sequence[RowSummary],
    baselines: Sequence[BaselineRow],
    policies: Sequence[str],
    compare: Callable[..., Mapping[str, Against]],
) -> list[str]:
    """What an evaluation says of its policies and of the routers that learn; nothing where there are none of either,
    or nothing else beside the policies.

    Args:
        compare: rows compared with the row of the first name, by their names: those named besides, or else all.
    """
    if rows and not any(row.em.mean for row in rows):
        return [NOBODY]
    by_name = {row.name: row for row in rows}
    single = by_name.get(BEST_CONSTANT_TRAINING)
    found = [said for name in policies if (said := _of_policy(by_name[name], by_name, policies, compare(name)))]
    learned = [each for each in baselines if each.router in LEARNED and each.name in by_name]
    if not learned:
        return found
    if single is None:
        return [*found, NO_SINGLE]
    contenders = [_contender(by_name[each.name], each.method, each.lambda_) for each in learned]
    return found + learned_verdicts(
        contenders,
        _contender(single, BEST_CONSTANT_TRAINING, 0.0),
        lambda each: compare(BEST_CONSTANT_TRAINING, each.row)[each.row].comparison.difference,
    )


def _of_policy(
    row: RowSummary, by_name: Mapping[str, RowSummary], policies: Sequence[str], others: Mapping[str, Against]
) -> str:
    """Is it the best of all rows except the cheapest right candidate, and of those that cost no more? Is it no dearer
    than the best constant in training? `others` is what the other rows are more often right than it."""
    rivals = [name for name in others if name != CHEAPEST_RIGHT and name not in policies]
    if not rivals:
        return ""
    said = [f"{row.name}: {_best_of(f'the rows beside {_KNOWING}', rivals, others)}"]
    if not (no_dearer := [name for name in rivals if _usd(by_name[name]) <= _usd(row) * _SAME_PRICE]):
        said.append("cheaper than all of them")
    elif len(no_dearer) < len(rivals):
        said.append(_best_of("those of them that cost no more", no_dearer, others))
    if BEST_CONSTANT_TRAINING in others:
        said.append(f"{_ahead(others[BEST_CONSTANT_TRAINING])} against {_SINGLE}")
    if (single := by_name.get(BEST_CONSTANT_TRAINING)) is None:
        said.append(f"its price has no {BEST_CONSTANT_TRAINING!r} to be compared with")
    else:
        dearer = _share(_usd(row), _contender(single, BEST_CONSTANT_TRAINING, 0.0)) > _SAME_PRICE
        said.append(
            f"{'NOT ' * dearer}at equal or lower price than {_SINGLE}, {_usd(row):.4g} against "
            f"{_usd(single):.4g} USD per 1,000 questions"
        )
    if missing := [name for name in by_name if name not in (*others, *policies, CHEAPEST_RIGHT)]:
        said.append(f"not comparable with {', '.join(missing)}")
    return "; ".join(said)


def _best_of(whom: str, rivals: Sequence[str], others: Mapping[str, Against]) -> str:
    """Whether a row is the best of its rivals, by its lead over the best of these."""
    first = max(rivals, key=lambda name: others[name].comparison.difference.mean)
    behind = others[first].comparison.difference
    if behind.mean > 0:
        place = "NOT the best of " + whom + (", by no more than the interval can tell" if not behind.low > 0 else "")
    else:
        place = "the best of " + whom + (", by no more than the interval can tell" if not behind.high < 0 else "")
    return f"{place}, {_ahead(others[first])} against {first}"


def _ahead(other: Against) -> str:
    """The row that another was compared with, less that other."""
    gap = other.comparison.difference
    turned = Interval(0.0 - gap.mean, 0.0 - gap.high, 0.0 - gap.low, gap.questions)
    return f"{interval_text(turned, '+.3f')}, p = {other.p_holm:.2g} by Holm,"


def _contender(row: RowSummary, method: str, lambda_: float) -> Contender:
    return Contender(row.name, method, lambda_, row.em.mean, _usd(row))


def _usd(row: RowSummary) -> float:
    return row.usd_per_1k + row.policy_usd_per_1k


def _share(usd: float, single: Contender) -> float:
    """Of the best constant's price; of one that is free, everything paid is infinitely more."""
    if not single.usd_per_1k:
        return float("inf") if usd else 1.0
    return usd / single.usd_per_1k


def _judge(difference: Interval) -> str:
    if difference.low > 0:
        return f"better than {_SINGLE}"
    if difference.high < 0:
        return f"WORSE than {_SINGLE}"
    if difference.mean < 0:
        return f"NOT as good as {_SINGLE}, by less than the interval can tell"
    return f"at least as good as {_SINGLE}, by no more than the interval can tell"
