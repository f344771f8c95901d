"""Intervals and paired tests: against scipy, against brute force, and where there is nothing to tell."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.evaluation.statistics import (
    StatisticsError,
    compare,
    holm,
    macro_interval,
    mcnemar,
    mean_interval,
    ratio_interval,
    share_interval,
    sign_flip,
)

RNG = np.random.default_rng(7)
SCORES = st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=2, max_size=40)
BITS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def test_an_interval_is_scipys() -> None:
    scores = RNG.random(80)
    ours = mean_interval(scores, level=0.9, seed=3)
    theirs = stats.bootstrap(
        (scores,), np.mean, method="percentile", confidence_level=0.9, rng=np.random.default_rng(3)
    ).confidence_interval
    assert (ours.mean, ours.low, ours.high) == pytest.approx((scores.mean(), theirs.low, theirs.high))
    assert ours == mean_interval(scores, level=0.9, seed=3)
    assert ours != mean_interval(scores, level=0.9, seed=4)


def test_an_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    hits = 0
    for trial in range(200):
        scores = (RNG.random(100) < 0.4).astype(float)
        found = mean_interval(scores, resamples=500, seed=trial)
        hits += found.low <= 0.4 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


@settings(max_examples=25)
@given(SCORES)
def test_an_interval_holds_its_mean_and_stays_within_the_scores(scores: list[float]) -> None:
    found = mean_interval(scores, resamples=200)
    slack = 1e-9
    assert min(scores) - slack <= found.low <= found.high <= max(scores) + slack
    assert found.mean == pytest.approx(np.mean(scores))
    assert found.known


def test_a_mean_over_sets_weighs_sets_not_questions() -> None:
    large, small = np.zeros(400), np.array([0.0, 1.0] * 10)
    found = macro_interval([large, small])
    assert found.mean == pytest.approx(0.25)
    assert found.questions == 420
    alone = mean_interval(small)
    assert found.high - found.low == pytest.approx((alone.high - alone.low) / 2, rel=0.2)


def test_one_question_has_a_mean_and_no_bounds() -> None:
    found = mean_interval([1.0])
    assert (found.mean, found.questions, found.known) == (1.0, 1, False)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not macro_interval([[1.0], [0.0, 1.0]]).known
    assert compare([1.0], [0.0]).p_value == 1.0
    assert compare([0.7], [0.1]).p_value == 1.0


@pytest.mark.parametrize("row", [[0.0, 1.0, 1.0, 0.0], [0.3, 0.1, 0.9], [0.0] * 30, list(RNG.random(300))])
def test_identical_rows_differ_by_nothing(row: list[float]) -> None:
    found = compare(row, row)
    assert (found.difference.mean, found.difference.low, found.difference.high) == (0, 0, 0)
    assert found.p_value == 1.0


@given(BITS)
def test_mcnemar_counts_the_questions_that_one_row_alone_gets_right(pairs: list[tuple[bool, bool]]) -> None:
    a, b = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
    wins = sum(x > y for x, y in pairs)
    losses = sum(y > x for x, y in pairs)
    # Twice the smaller tail of a fair coin, by the definition.
    tail = sum(math.comb(wins + losses, k) for k in range(min(wins, losses) + 1)) / 2 ** (wins + losses)
    assert mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail))
    assert compare(a, b, resamples=50).test == "mcnemar"


@settings(max_examples=40)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9))
def test_a_small_sign_flip_test_is_the_count_over_all_patterns(differences: list[int]) -> None:
    total = sum(differences)
    sums = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in _patterns(len(differences))]
    above = sum(value >= total for value in sums) / len(sums)
    below = sum(value <= total for value in sums) / len(sums)
    assert sign_flip(differences) == pytest.approx(min(1.0, 2 * min(above, below)))


def _patterns(count: int) -> list[tuple[int, ...]]:
    return list(itertools.product((-1, 1), repeat=count))


@pytest.mark.parametrize("shift", [0.0, 0.08, 0.2])
def test_a_large_sign_flip_test_agrees_with_scipys(shift: float) -> None:
    differences = np.random.default_rng(11).normal(shift, 1, 120)
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, rng=np.random.default_rng(1)
    ).pvalue
    ours = sign_flip(differences)
    # Both draw at random: five standard errors of a one-sided share, doubled.
    assert ours == pytest.approx(theirs, abs=2 * 5 * math.sqrt(2 * max(theirs, 0.001) / 2 / 9999))
    assert ours == sign_flip(differences)


def test_a_large_difference_is_seen_and_p_is_never_zero() -> None:
    found = compare(RNG.random(300) + 1, RNG.random(300))
    assert found.test == "sign_flip"
    assert found.difference.low > 0.8
    assert found.p_value == pytest.approx(2 / 10_000)


def test_false_alarms_are_as_rare_as_the_level() -> None:
    alarms = [sign_flip(np.random.default_rng(trial).normal(0, 1, 30), resamples=400) <= 0.05 for trial in range(300)]
    assert sum(alarms) / 300 <= 0.09


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    indices = range(len(p_values))
    for index, adjusted in enumerate(holm(p_values)):
        # A hypothesis falls where every set of hypotheses with it does (Marcus, Peritz and Gabriel 1976).
        worst = max(
            min(1.0, len(group) * min(p_values[i] for i in group))
            for size in range(1, len(p_values) + 1)
            for group in itertools.combinations(indices, size)
            if index in group
        )
        assert adjusted == pytest.approx(worst)


def test_holm_keeps_the_order_it_was_given() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "one question at least"),
        (lambda: mean_interval([[0.0, 1.0]]), "shape"),
        (lambda: mean_interval([0.0, math.nan]), "must be finite"),
        (lambda: mean_interval([0.0, 1.0], level=95), "level 95"),
        (lambda: macro_interval([]), "no data set"),
        (lambda: compare([0.0, 1.0], [1.0]), "rows of 2 and 1 questions"),
        (lambda: holm([0.5, 1.5]), "p-value 1.5"),
    ],
)
def test_what_can_not_be_computed_is_named(call: object, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        call()  # type: ignore[operator]


def test_a_share_resamples_pairs_of_each_set_by_itself() -> None:
    theirs = [(RNG.random(size) < 0.8).astype(float) for size in (60, 90)]
    ours = [scores * (RNG.random(len(scores)) < 0.7) for scores in theirs]
    found = ratio_interval(ours, theirs, resamples=4000)
    draws = []
    for _ in range(4000):
        at = [RNG.integers(0, len(scores), len(scores)) for scores in theirs]
        upper, lower = ([scores[i].mean() for scores, i in zip(row, at, strict=True)] for row in (ours, theirs))
        draws.append(np.mean(upper) / np.mean(lower))
    assert found.mean == pytest.approx(np.mean([s.mean() for s in ours]) / np.mean([s.mean() for s in theirs]))
    assert (found.low, found.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.01)
    assert found == ratio_interval(ours, theirs, resamples=4000)


def test_a_share_of_itself_is_one_and_a_share_of_nothing_is_unknown() -> None:
    row = [0.0, 1.0, 1.0, 0.0, 1.0] * 20
    same = ratio_interval([row], [row], resamples=199)
    assert (same.mean, same.low, same.high) == (1, 1, 1)
    nothing = ratio_interval([row], [[0.0] * 100], resamples=199)
    assert math.isnan(nothing.mean)
    assert not nothing.known
    assert not ratio_interval([[1.0], row], [[1.0], row]).known
    rarely = ratio_interval([[0.0, 1.0]], [[0.0, 1.0]], resamples=199)  # a quarter of the resamples hold no right one
    assert rarely.mean == 1
    assert not rarely.known
    with pytest.raises(StatisticsError, match="rows of 2 and 3 questions"):
        ratio_interval([[1.0, 0.0]], [[1.0, 0.0, 1.0]])
    with pytest.raises(StatisticsError, match="no data set"):
        ratio_interval([], [])


def test_a_share_of_whole_questions_has_wilson_s_interval() -> None:
    found = share_interval(0.875, 200)
    assert (found.mean, found.questions) == (0.875, 200)
    # By hand: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964.
    assert (found.low, found.high) == (pytest.approx(0.82199, abs=1e-5), pytest.approx(0.91388, abs=1e-5))
    for share, questions in ((0.5, 0), (1.0, 1), (0.123, 10), (math.nan, 10)):
        assert not share_interval(share, questions).known
