"""Frontiers: no point lies above the hull, areas agree with another computation, and the closed share of the gap."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.evaluation.frontier import FrontierError, Point, area, beside_sweep, gap_of, hull, standings
from benchmarks.evaluation.measure import EXACT, HOLDS, Measure
from benchmarks.evaluation.statistics import Interval

PAIRS = st.lists(st.tuples(st.integers(0, 20).map(float), st.integers(0, 20).map(lambda n: n / 20)), max_size=8)


def point(method: str, price: float, em: float, knob: str = "", measure: Measure = EXACT) -> Point:
    return Point(method, knob, price, Interval(em, math.nan, math.nan, 1), "here", measure=measure)


@settings(max_examples=60)
@given(PAIRS)
def test_no_point_lies_above_the_hull_which_rises_ever_less(points: list[tuple[float, float]]) -> None:
    edge = hull(points)
    prices, qualities = np.transpose(edge)
    for price, quality in points:
        assert np.interp(price, prices, qualities) >= quality - 1e-12
    slopes = np.diff(qualities) / np.diff(prices)
    assert (np.diff(slopes) < 1e-12).all()
    assert (slopes > 0).all()
    assert set(edge[1:]) <= set(points)


@settings(max_examples=60)
@given(PAIRS, st.floats(0.5, 30))
def test_the_area_is_the_mean_of_the_hull(points: list[tuple[float, float]], dearest: float) -> None:
    grid = (np.arange(20_000) + 0.5) / 20_000 * dearest
    expected = np.interp(grid, *np.transpose(hull(points))).mean()
    assert area(points, dearest) == pytest.approx(expected, abs=1e-4)


def test_what_is_free_has_its_quality_everywhere() -> None:
    assert area([(0.0, 0.5)], 0.0) == area([(0.0, 0.5)], 3.0) == 0.5
    assert area([], 0.0) == 0.0


def test_standings_tell_the_share_of_the_gap_and_the_cheapest_best_point() -> None:
    found = standings(
        [
            point("cheapest_right", 2.0, 0.9),
            point("best_constant_training", 4.0, 0.5),
            point("policy", 3.0, 0.7, "α=0"),
            point("policy", 1.0, 0.7, "α=0.5"),
        ]
    )
    assert [standing.method for standing in found] == ["cheapest_right", "policy", "best_constant_training"]
    by_name = {standing.method: standing for standing in found}
    assert by_name["policy"].gap_closed == pytest.approx(0.5)
    assert by_name["policy"].best.knob == "α=0.5"
    assert by_name["policy"].area == pytest.approx((0.35 + 3 * 0.7) / 4)
    assert standings([point("policy", 1.0, 0.7)])[0].gap_closed is None


def test_the_gap_is_between_two_of_a_kind() -> None:
    of_run = [point("best_constant_hindsight", 1.0, 0.6), point("most_competent", 1.0, 0.8)]
    of_evaluation = [point("best_constant_training", 1.0, 0.4), point("cheapest_right", 1.0, 0.9)]
    policy = point("policy", 1.0, 0.7)

    def closed(*others: Point) -> float | None:
        return {standing.method: standing.gap_closed for standing in standings([policy, *others])}["policy"]

    assert closed(*of_run) == pytest.approx(0.5)
    assert closed(*of_evaluation) == closed(*of_run, *of_evaluation) == pytest.approx(0.6)
    assert closed(of_run[0], of_evaluation[1]) is closed(of_run[1], of_evaluation[0]) is None
    assert gap_of([*of_run, of_evaluation[0]], EXACT) == ("best_constant_hindsight", "most_competent")


def test_what_was_measured_otherwise_stands_apart() -> None:
    held = [
        point(name, 1.0, em, measure=HOLDS) for name, em in (("best_constant_training", 0.5), ("cheapest_right", 1.0))
    ]
    twice = [point("policy", 1.0, 0.2), point("policy", 1.0, 0.75, measure=HOLDS)]
    found = standings([*held, *twice])
    assert [(standing.method, standing.measure) for standing in found] == [
        ("policy", EXACT), ("cheapest_right", HOLDS), ("policy", HOLDS), ("best_constant_training", HOLDS),
    ]  # fmt: skip
    assert [standing.gap_closed for standing in found] == [None, 1.0, 0.5, 0.0]
    assert [standing.points for standing in found] == [1, 1, 1, 1]


def test_a_policy_under_budgets_stands_beside_what_the_sweep_reaches_for_its_price() -> None:
    def told(price: float, low: float, mean: float, high: float) -> Point:
        return Point("policy, by budget", f"{price}", price, Interval(mean, low, high, 9), "here", pool="one")

    sweep = [point("policy", 1.0, 0.6, "α=0.6"), point("policy", 3.0, 0.8, "α=0"), point("policy", 1.0, 0.9)]
    other = [
        point("policy", 1.0, 0.1, "α=0.6", HOLDS),
        point("cheapest_right", 1.0, 0.9),
        point("policy", 0.1, 0.9, "budgets drawn"),
        point("policy", 0.1, math.nan, "α=0.9"),
        replace(point("policy", 0.1, 0.9, "α=0.3"), pool="another"),
    ]
    under = [
        told(9.0, 0.7, 0.75, 0.79), told(3.0, 0.7, 0.81, 0.9), told(2.0, 0.6, 0.65, 0.71), told(0.5, 0.2, 0.25, 0.29)
    ]  # fmt: skip
    found = beside_sweep([*under, *sweep, *other])
    # Between two prices the hull is a line; above the highest price it is flat; below the lowest there is no sweep.
    assert [each.point for each in found] == under[::-1]
    assert [each.sweep for each in found] == [None, pytest.approx(0.7), pytest.approx(0.8), pytest.approx(0.8)]
    assert [each.verdict for each in found] == ["none", "within", "above", "below"]
    assert beside_sweep([*under, *other]) == beside_sweep(sweep) == beside_sweep([*under, sweep[0]]) == []
    bare = [point("policy, by budget", 2.0, mean) for mean in (0.75, 0.65, math.nan)]
    assert [each.verdict for each in beside_sweep([*bare, *sweep])] == ["above", "none", "none"]


def test_without_points_there_is_nothing_to_draw() -> None:
    with pytest.raises(FrontierError, match="no rows to draw"):
        standings([])
