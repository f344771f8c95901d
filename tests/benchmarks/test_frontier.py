"""Frontiers: hulls that no point lies above, areas by another sum, and the share of the oracle's gap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.frontier import FrontierError, Point, area, hull, standings
from benchmarks.statistics import Interval

PAIRS = st.lists(st.tuples(st.integers(0, 20).map(float), st.integers(0, 20).map(lambda n: n / 20)), max_size=8)


def point(method: str, price: float, em: float, knob: str = "") -> Point:
    return Point(method, knob, price, Interval(em, math.nan, math.nan, 1), "here")


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
            point("oracle", 2.0, 0.9),
            point("best_constant", 4.0, 0.5),
            point("policy", 3.0, 0.7, "α=0"),
            point("policy", 1.0, 0.7, "α=0.5"),
        ]
    )
    assert [standing.method for standing in found] == ["oracle", "policy", "best_constant"]
    by_name = {standing.method: standing for standing in found}
    assert by_name["policy"].gap_closed == pytest.approx(0.5)
    assert by_name["policy"].best.knob == "α=0.5"
    assert by_name["policy"].area == pytest.approx((0.35 + 3 * 0.7) / 4)
    assert standings([point("policy", 1.0, 0.7)])[0].gap_closed is None


def test_without_points_there_is_nothing_to_draw() -> None:
    with pytest.raises(FrontierError, match="no rows to draw"):
        standings([])
