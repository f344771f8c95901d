"""Statistics of an evaluation: intervals of means, and whether two rows of a table really differ.

A question is the unit throughout: scores of one row are independent draws, and two rows are paired by question.
All is seeded: the same scores give the same numbers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from actors.errors import ExplainedError

RESAMPLES = 9999
_DRAWS = 2_000_000  # numbers drawn at a time, so that large sets stay within some tens of MB

Scores = NDArray[np.float64]
Test = Literal["mcnemar", "sign_flip"]


class StatisticsError(ExplainedError, ValueError):
    """Scores from which nothing can be computed; the message names what is wrong with them."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval, in the unit of the scores.

    Of a single question nothing is known about the spread: `low` and `high` are then nan.
    """

    mean: float
    low: float
    high: float
    questions: int

    @property
    def known(self) -> bool:
        """Whether there are bounds."""
        return not math.isnan(self.low)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Row a against row b on the same questions: the mean of a − b, and the p-value of their being alike."""

    difference: Interval
    p_value: float  # two-sided
    test: Test


def mean_interval(scores: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean of scores with its percentile bootstrap interval.

    Source: Efron and Tibshirani 1993, chapter 13; `scipy.stats.bootstrap`. Equal scores give an interval of no width.

    Raises:
        StatisticsError: there are no scores, one is not finite, or the level is not between 0 and 1.
    """
    return macro_interval([scores], level=level, resamples=resamples, seed=seed)


def macro_interval(
    sets: Sequence[ArrayLike], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean over data sets of their means (the paper's "Avg."); each set is resampled by itself.

    Bounds are nan where a set holds a single question.

    Raises:
        StatisticsError: as for `mean_interval`, of any set; or there is no set.
    """
    if not 0 < level < 1:
        raise StatisticsError(f"confidence level {level}: must be between 0 and 1, such as 0.95")
    samples = [_scores(scores) for scores in sets]
    if not samples:
        raise StatisticsError("no data set to average over; name one at least")
    questions = sum(len(sample) for sample in samples)
    mean = float(np.mean([sample.mean() for sample in samples]))
    if min(len(sample) for sample in samples) == 1:
        return Interval(mean, math.nan, math.nan, questions)

    def statistic(*drawn: Scores, axis: int) -> Scores:
        means: Scores = np.mean([sample.mean(axis=axis) for sample in drawn], axis=0)
        return means

    return _bootstrapped(mean, samples, statistic, level, resamples, seed)


def share_interval(share: float, questions: int) -> Interval:
    """A share of questions with Wilson's interval at 95 %, where no more than their number is known. There are no
    bounds where the share is not that of whole questions."""
    right = share * questions
    if questions < 2 or math.isnan(right) or abs(right - round(right)) > 1e-6 * questions:
        return Interval(share, math.nan, math.nan, questions)
    found = stats.binomtest(round(right), questions).proportion_ci(method="wilson")
    return Interval(share, float(found.low), float(found.high), questions)


def _bootstrapped(
    mean: float,
    samples: Sequence[NDArray[Any]],
    statistic: Callable[..., Scores],
    level: float,
    resamples: int,
    seed: int,
) -> Interval:
    """The mean with the percentile bootstrap's bounds of a statistic; each sample is resampled by itself."""
    questions = sum(map(len, samples))
    found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        batch=max(1, _DRAWS // questions),
        vectorized=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), questions)


def ratio_interval(
    ours: Sequence[ArrayLike],
    theirs: Sequence[ArrayLike],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The macro average of one row as a share of another's, on the same questions: `ours` and `theirs` hold the scores
    of each data set, in the same order. Questions are resampled in pairs, each set by itself.

    The share is nan where theirs averages 0; bounds are, where a resample's does or a set holds a single question.

    Raises:
        StatisticsError: as for `macro_interval`, or the rows differ in length.
    """
    pairs = [(_scores(a), _scores(b)) for a, b in zip(ours, theirs, strict=True)]
    if not pairs:
        raise StatisticsError("no data set to average over; name one at least")
    for a, b in pairs:
        if len(a) != len(b):
            raise StatisticsError(f"rows of {len(a)} and {len(b)} questions: a share needs the same questions")

    def statistic(*drawn: NDArray[Any], axis: int = -1) -> Scores:
        places = [at.astype(np.intp) for at in drawn]
        upper, lower = (
            np.mean([pair[row][at].mean(axis=axis) for pair, at in zip(pairs, places, strict=True)], axis=0)
            for row in (0, 1)
        )
        share: Scores = np.divide(upper, lower, out=np.full_like(lower, np.nan), where=lower > 0)
        return share

    questions = sum(len(a) for a, _ in pairs)
    everyone = [np.arange(len(a)) for a, _ in pairs]
    mean = float(statistic(*everyone))
    if math.isnan(mean) or min(map(len, everyone)) == 1:
        return Interval(mean, math.nan, math.nan, questions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # bounds that are nan are told by being so
        return _bootstrapped(mean, everyone, statistic, level, resamples, seed)


def compare(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two rows, question by question: bootstrap of the differences, and a paired test.

    Scores that are all 0 or 1 are tested by McNemar's exact test, others by flipping signs. Identical rows give the
    interval [0, 0] and p = 1; so does a single question, but for its bounds, which are nan.

    Raises:
        StatisticsError: the rows differ in length, or as for `mean_interval`.
    """
    ours, theirs = _scores(a), _scores(b)
    if len(ours) != len(theirs):
        raise StatisticsError(
            f"rows of {len(ours)} and {len(theirs)} questions: paired tests need the same questions in the same order"
        )
    difference = mean_interval(ours - theirs, level=level, resamples=resamples, seed=seed)
    if _binary(ours) and _binary(theirs):
        return Comparison(difference, mcnemar(ours, theirs), "mcnemar")
    return Comparison(difference, sign_flip(ours - theirs, resamples=resamples, seed=seed), "sign_flip")


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p-value of McNemar's exact test for paired 0/1 scores.

    Of the questions that one row alone answers rightly, each row has half where they are alike: a binomial test.
    Source: McNemar 1947, in its exact form; `scipy.stats.binomtest`. 1 where no question tells the rows apart.
    """
    ours, theirs = _scores(a), _scores(b)
    only_ours, only_theirs = int(np.sum(ours > theirs)), int(np.sum(theirs > ours))
    discordant = only_ours + only_theirs
    return float(stats.binomtest(only_ours, discordant).pvalue) if discordant else 1.0


def sign_flip(differences: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p-value of the paired permutation test: were the rows alike, a difference's sign would be chance.

    Exact where `resamples` allows every pattern of signs, else drawn at random, the observed pattern counted in
    (Phipson and Smyth 2010), so that p is never 0. Equal to `scipy.stats.permutation_test` with one sample and
    permutation_type="samples".
    """
    moved = _scores(differences)
    moved = moved[moved != 0]  # a zero has no sign to flip
    if not len(moved):
        return 1.0
    if len(moved) == 1:  # both patterns are as extreme; scipy takes two numbers at least
        return 1.0
    if 2 ** min(len(moved), 64) <= resamples:
        return float(stats.permutation_test((moved,), np.mean, permutation_type="samples", vectorized=True).pvalue)
    # Of 500 questions scipy draws 9,999 patterns in 0.4 s, of 5,000 in 5.8 s; one product of matrices takes a tenth.
    rng = np.random.default_rng(seed)
    observed = moved.sum()
    margin = 1e-12 * np.abs(moved).sum()  # sums in another order are as extreme, but for rounding
    above = below = 1
    for start in range(0, resamples, batch := max(1, _DRAWS // len(moved))):
        flipped = rng.integers(0, 2, size=(min(batch, resamples - start), len(moved)), dtype=np.bool_)
        sums = observed - 2 * (flipped.astype(np.float64) @ moved)
        above += int(np.sum(sums >= observed - margin))
        below += int(np.sum(sums <= observed + margin))
    return min(1.0, 2 * min(above, below) / (resamples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several tests so that the chance of any false alarm stays below the level; in their order.

    Source: Holm 1979: the k-th smallest of m is multiplied by m − k + 1, and none is less than the one before it.

    Raises:
        StatisticsError: a value is not in [0, 1].
    """
    for value in p_values:
        if not 0 <= value <= 1:
            raise StatisticsError(f"p-value {value}: must be in [0, 1]")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _scores(values: ArrayLike) -> Scores:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise StatisticsError(f"scores of shape {scores.shape}: one number per question, and one question at least")
    if not np.isfinite(scores).all():
        raise StatisticsError(
            f"score {scores[~np.isfinite(scores)][0]}: scores must be finite; leave void episodes out"
        )
    return scores


def _binary(scores: Scores) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())
