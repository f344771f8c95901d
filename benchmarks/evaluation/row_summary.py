"""The row summary: means over all items of an evaluation's row, in total, by data set and by hops."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from benchmarks.evaluation.collapse import call_entropy
from benchmarks.evaluation.item import Item
from benchmarks.evaluation.means import EvaluationError
from benchmarks.evaluation.measure import EXACT, HOLDS, Measure
from benchmarks.evaluation.statistics import (
    RESAMPLES,
    Comparison,
    Interval,
    compare,
    holm,
    macro_interval,
    mean_interval,
    sign_flip,
)
from rewards.transcript import CallStatus

_Name = TypeVar("_Name", str, int)
_FAILED = (CallStatus.TIMEOUT, CallStatus.PROVIDER_ERROR, CallStatus.OVER_BUDGET)


@dataclass(frozen=True, slots=True)
class Ended:
    """Total numbers of calls without a usable reply."""

    refusals: int
    failed_calls: int
    invalid_routes: int

    @staticmethod
    def of(items: Iterable[Item]) -> Ended:
        count = Counter(status for item in items for _, status in item.calls)
        return Ended(count[CallStatus.REFUSED], sum(count[each] for each in _FAILED), count[CallStatus.INVALID_ROUTE])


@dataclass(frozen=True, slots=True)
class Part:
    """The questions of one data set, or of one hop count."""

    questions: int
    em: Interval
    f1: float | None  # mean; None if some answers are unknown
    usd_per_1k: float
    calls: float  # this and the next three: mean per question
    prompt_tokens: float
    completion_tokens: float
    latency_s: float
    ended: Ended


@dataclass(frozen=True, slots=True)
class Against:
    """A row compared with the reference, question by question, with a measure that is known for both."""

    reference: str
    questions: int  # number of questions that both answered
    comparison: Comparison
    p_holm: float  # p-value, adjusted for all rows that were compared with the reference
    measure: Measure = EXACT


@dataclass(frozen=True, slots=True)
class RowSummary:
    """The summary of one row.

    Numbers without a comment are macro averages: the mean over data sets of the mean over questions. A question with
    several samples counts with its mean over samples.
    """

    name: str
    questions: int
    samples: int
    em: Interval
    em_all: float  # mean over all questions, without weighting by data set
    f1: Interval | None
    usd_per_1k: float
    policy_usd_per_1k: float
    calls: float  # this and the next four: mean per question
    prompt_tokens: float
    completion_tokens: float
    policy_tokens: float
    latency_s: float
    unanswered: float  # share of the episodes without an answer
    ended: Ended
    lost: int  # episodes that failed for technical reasons; no other number includes them
    call_share: Mapping[str, float]  # of all calls
    entropy: float  # of `call_share`, in nats
    by_set: Mapping[str, Part]
    by_hops: Mapping[int, Part]
    measure: Measure  # the measure of `em`, here and in the parts
    pass_at: Mapping[int, float]  # by k, share of questions that one of k samples answers rightly; empty for one sample
    spread: float | None  # standard deviation of exact match between samples; None for one sample


def summarise_row(name: str, items: Sequence[Item], *, lost: int = 0, resamples: int = RESAMPLES) -> RowSummary:
    """Summarise the items of a row.

    Raises:
        EvaluationError: there are no items.
    """
    if not items:
        raise EvaluationError(
            f"{name}: nothing to evaluate, {lost} episodes failed and none ended; the reasons are in failures.jsonl"
        )
    asked = _Asked(items)
    counts = Counter(model for item in items for model, _ in item.calls if model)
    total = sum(counts.values())
    share = {model: count / total for model, count in counts.most_common()}
    samples = max(item.sample for item in items) + 1
    known = all(item.f1 is not None for item in items)
    return RowSummary(
        name=name,
        questions=len(asked.by_question),
        samples=samples,
        em=macro_interval(asked.by_set(_em), resamples=resamples),
        em_all=asked.mean(_em),
        f1=macro_interval(asked.by_set(_f1), resamples=resamples) if known else None,
        usd_per_1k=1000 * asked.macro(lambda item: item.cost_usd),
        policy_usd_per_1k=1000 * asked.macro(lambda item: item.policy_usd),
        calls=asked.macro(lambda item: len(item.calls)),
        prompt_tokens=asked.macro(lambda item: item.prompt_tokens),
        completion_tokens=asked.macro(lambda item: item.completion_tokens),
        policy_tokens=asked.macro(lambda item: item.policy_tokens),
        latency_s=asked.macro(lambda item: item.latency_s),
        unanswered=asked.macro(lambda item: bool(item.stop) and item.answer is None),
        ended=Ended.of(items),
        lost=lost,
        call_share=share,
        entropy=call_entropy(share) if total else 0.0,
        by_set=_parts(items, lambda item: item.dataset, resamples),
        by_hops={hops: part for hops, part in sorted(_parts(items, lambda i: i.hops or 0, resamples).items()) if hops},
        measure=items[0].measure,
        pass_at=pass_at(asked.by_question.values()) if samples > 1 else {},
        spread=_spread(items) if samples > 1 else None,
    )


def against(rows: Mapping[str, Sequence[Item]], reference: str, *, resamples: int = RESAMPLES) -> dict[str, Against]:
    """Compare each other row with the reference on the questions that both answered, with Holm's adjustment.

    The difference is that of the macro averages; each data set is resampled separately. With one data set the test is
    that of `statistics.compare`. With several it is the sign-flip test, in which a question has its weight in the macro
    average. Rows with different measures are compared by whether their answers contain an accepted answer. A row that
    has no common question or no common measure with the reference is left out.
    """
    reference_items = _Asked(rows[reference])
    found: dict[str, tuple[int, Comparison, Measure]] = {}
    for name, items in rows.items():
        asked = _Asked(items)
        common = [key for key in asked.by_question if key in reference_items.by_question]
        measure = _common_measure(items, rows[reference])
        if name != reference and common and measure is not None:
            of = _held if measure == HOLDS else _em
            compared = _compare(common, asked.means(of), reference_items.means(of), resamples)
            found[name] = len(common), compared, measure
    adjusted = holm([comparison.p_value for _, comparison, _ in found.values()])
    return {
        name: Against(reference, questions, comparison, p, measure)
        for (name, (questions, comparison, measure)), p in zip(found.items(), adjusted, strict=True)
    }


def pass_at(questions: Iterable[Sequence[Item]]) -> dict[int, float]:
    """pass@k: the share of questions that at least one of k samples answers rightly, unbiased.

    k is 1, 2, 4, … and the number of all samples. Source: Chen et al. 2021 (arXiv 2107.03374), equation 1:
    1 − C(n − c, k)/C(n, k) for n samples of which c are right.
    """
    counts = [(len(items), sum(item.em == 1.0 for item in items)) for items in questions]
    fewest = min(samples for samples, _ in counts)
    sizes = [2**power for power in range(fewest.bit_length()) if 2**power < fewest] + [fewest]
    return {k: float(np.mean([1 - math.comb(n - c, k) / math.comb(n, k) for n, c in counts])) for k in sizes}


Question = tuple[str, str]  # data set, id


class _Asked:
    """A row's items by question."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.by_question: dict[Question, list[Item]] = defaultdict(list)
        # Sorted, so that a resumed evaluation adds the numbers in the same order and gives the same sums.
        for item in sorted(items, key=lambda item: item.key):
            self.by_question[item.dataset, item.question].append(item)

    def means(self, of: Callable[[Item], float]) -> dict[Question, float]:
        return dict(zip(self.by_question, self.scores(of), strict=True))

    def scores(self, of: Callable[[Item], float]) -> list[float]:
        return [float(np.mean([of(item) for item in items])) for items in self.by_question.values()]

    def mean(self, of: Callable[[Item], float]) -> float:
        return float(np.mean(self.scores(of)))

    def by_set(self, of: Callable[[Item], float]) -> list[list[float]]:
        sets: dict[str, list[float]] = defaultdict(list)
        for (dataset, _), score in zip(self.by_question, self.scores(of), strict=True):
            sets[dataset].append(score)
        return list(sets.values())

    def macro(self, of: Callable[[Item], float]) -> float:
        return float(np.mean([np.mean(scores) for scores in self.by_set(of)]))


def _em(item: Item) -> float:
    return item.em


def _held(item: Item) -> float:
    return math.nan if item.held is None else item.held


def _common_measure(ours: Sequence[Item], theirs: Sequence[Item]) -> Measure | None:
    """The measure to compare two rows with; None if there is none."""
    measures = {item.measure for items in (ours, theirs) for item in items}
    if len(measures) == 1:
        return ours[0].measure
    return HOLDS if all(item.held is not None for items in (ours, theirs) for item in items) else None


def _f1(item: Item) -> float:
    return math.nan if item.f1 is None else item.f1


def _parts(items: Sequence[Item], of: Callable[[Item], _Name], resamples: int) -> dict[_Name, Part]:
    groups: dict[_Name, list[Item]] = defaultdict(list)
    for item in items:
        groups[of(item)].append(item)
    return {name: _part(group, resamples) for name, group in groups.items()}


def _part(items: Sequence[Item], resamples: int) -> Part:
    asked = _Asked(items)
    f1 = asked.mean(_f1)
    return Part(
        questions=len(asked.by_question),
        em=mean_interval(asked.scores(_em), resamples=resamples),
        f1=None if math.isnan(f1) else f1,
        usd_per_1k=1000 * asked.mean(lambda item: item.cost_usd),
        calls=asked.mean(lambda item: len(item.calls)),
        prompt_tokens=asked.mean(lambda item: item.prompt_tokens),
        completion_tokens=asked.mean(lambda item: item.completion_tokens),
        latency_s=asked.mean(lambda item: item.latency_s),
        ended=Ended.of(items),
    )


def _spread(items: Sequence[Item]) -> float:
    samples: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        samples[item.sample].append(item)
    return float(np.std([_Asked(part).macro(_em) for part in samples.values()], ddof=1))


def _compare(
    common: Sequence[Question], ours: Mapping[Question, float], theirs: Mapping[Question, float], resamples: int
) -> Comparison:
    sets: dict[str, list[Question]] = defaultdict(list)
    for key in common:
        sets[key[0]].append(key)
    if len(sets) == 1:
        return compare([ours[key] for key in common], [theirs[key] for key in common], resamples=resamples)
    gaps = [[ours[key] - theirs[key] for key in keys] for keys in sets.values()]
    weighted = [gap / (len(sets) * len(part)) for part in gaps for gap in part]
    return Comparison(macro_interval(gaps, resamples=resamples), sign_flip(weighted, resamples=resamples), "sign_flip")
