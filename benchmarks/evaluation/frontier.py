"""The frontier: the quality that a method reaches at each price, the area under this curve, and the closed gap.

The closed gap is a share: 0 is the quality of the best constant choice, 1 that of the best choice for each question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from actors.errors import ExplainedError
from benchmarks.evaluation.measure import EXACT, Measure
from benchmarks.evaluation.methods import (
    BEST_CONSTANT_HINDSIGHT,
    BEST_CONSTANT_TRAINING,
    CHEAPEST_RIGHT,
    MOST_COMPETENT,
)
from benchmarks.evaluation.statistics import Interval

BY_BUDGET = ", by budget"  # ends the name of a policy whose prompt states a budget
# The two ends of the gap: always asking one model, and the best choice for each question. The first pair belongs to an
# evaluation, the second to a run; the first pair that the rows hold is used.
_GAPS = ((BEST_CONSTANT_TRAINING, CHEAPEST_RIGHT), (BEST_CONSTANT_HINDSIGHT, MOST_COMPETENT))


class FrontierError(ExplainedError, ValueError):
    """There is nothing to draw; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement of a method."""

    method: str
    knob: str  # the setting that trades quality for cost, such as λ=0.1; empty for a method without one
    usd_per_1k: float
    em: Interval
    source: str  # the folder that it was read from
    pool: str = ""  # fingerprint of the candidates; empty if unknown
    measure: Measure = EXACT  # the measure of `em`


@dataclass(frozen=True, slots=True)
class Standing:
    """The results of a method over all its points."""

    method: str
    measure: Measure  # only standings with the same measure can be compared
    points: int
    area: float  # mean quality over prices from 0 to the highest price of all methods
    best: Point  # the point with the highest quality; of equal points the cheapest
    gap_closed: float | None  # `best` as a share of the gap between the methods of `gap_of`; None without these


@dataclass(frozen=True, slots=True)
class BesideSweep:
    """A policy with one budget, compared with the sweep: policies trained for several α."""

    point: Point
    sweep: float | None  # the quality of the sweep's hull at this point's price; None if the whole sweep costs more

    @property
    def verdict(self) -> Literal["above", "within", "below", "none"]:
        """How the point lies to the sweep.

        `within`: below the sweep, but the point's interval includes the sweep's quality. `none`: the sweep, the point
        or its interval is unknown.
        """
        em = self.point.em
        if self.sweep is None or math.isnan(em.mean):
            return "none"
        if em.mean >= self.sweep:
            return "above"
        if not em.known:
            return "none"
        return "within" if em.high >= self.sweep else "below"


def hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The non-decreasing upper convex hull of (price, quality), from the origin to the point with the best quality.

    At the origin no candidate is asked. A router reaches any point of the hull by choosing at random between the two
    neighbouring methods. Source: RouterBench (Hu et al. 2024, arXiv 2403.12031), section 3.2; the origin is our
    addition.
    """
    found: list[tuple[float, float]] = [(0.0, max((q for price, q in points if price == 0), default=0.0))]
    for price, quality in sorted(points):
        if quality <= found[-1][1]:
            continue
        while len(found) > 1 and _slope(found[-2], found[-1]) <= _slope(found[-1], (price, quality)):
            found.pop()
        found.append((price, quality))
    return found


def area(points: Sequence[tuple[float, float]], dearest: float) -> float:
    """Mean of the hull's quality over prices from 0 to `dearest`; if `dearest` is 0, the quality at price 0."""
    edge = hull(points)
    if dearest == 0:
        return edge[0][1]
    prices = np.array([price for price, _ in edge if price < dearest] + [dearest])
    qualities = np.interp(prices, *np.transpose(edge))
    return float(np.trapezoid(qualities, prices) / dearest)


def standings(points: Sequence[Point]) -> list[Standing]:
    """The standing of every method: first those measured by exact match, then the others; by falling area in each.

    Raises:
        FrontierError: there are no points.
    """
    if not points:
        raise FrontierError("no rows to draw; give evaluation folders (router-r1 evaluate) or runs that were evaluated")
    dearest = max(point.usd_per_1k for point in points)
    methods: dict[tuple[Measure, str], list[Point]] = {}
    for point in points:
        methods.setdefault((point.measure, point.method), []).append(point)
    ends = {measure: _ends(points, measure) for measure, _ in methods}
    found = []
    for (measure, method), mine in methods.items():
        best = min(mine, key=lambda point: (-point.em.mean, point.usd_per_1k))
        pairs = [(point.usd_per_1k, point.em.mean) for point in mine]
        found.append(Standing(method, measure, len(mine), area(pairs, dearest), best, _closed(best, ends[measure])))
    return sorted(found, key=lambda s: (s.measure != EXACT, s.measure, -s.area, s.method))


def beside_sweep(points: Sequence[Point]) -> list[BesideSweep]:
    """Compare every point with a budget with the sweep of α; the cheapest point comes first.

    A point's sweep has the same method and measure, and the same pool as far as pools are known. Points whose sweep has
    fewer than two α are left out.
    """
    found = []
    for point in sorted(points, key=lambda each: each.usd_per_1k):
        method, told, _ = point.method.rpartition(BY_BUDGET)
        swept = [
            each
            for each in points
            if (each.method, each.measure) == (method, point.measure)
            and each.knob.startswith("α")
            and not math.isnan(each.em.mean)
            and not (each.pool and point.pool and each.pool != point.pool)
        ]
        if not told or len({each.knob for each in swept}) < 2:
            continue
        edge = hull([(each.usd_per_1k, each.em.mean) for each in swept])
        dearer = point.usd_per_1k < min(each.usd_per_1k for each in swept)
        found.append(BesideSweep(point, None if dearer else float(np.interp(point.usd_per_1k, *np.transpose(edge)))))
    return found


def gap_of(rows: Sequence[Point | Standing], measure: Measure) -> tuple[str, str] | None:
    """The methods at the two ends of the gap (constant, best) for a measure; None if the rows lack them."""
    methods = {row.method for row in rows if row.measure == measure}
    return next((pair for pair in _GAPS if methods.issuperset(pair)), None)


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return float("inf") if a[0] == b[0] else (b[1] - a[1]) / (b[0] - a[0])


def _ends(points: Sequence[Point], measure: Measure) -> tuple[float, float] | None:
    """Quality at the two ends of the gap (constant, best); None if an end is missing or the gap is not positive."""
    pair = gap_of(points, measure)
    if pair is None:
        return None
    constant, best = (max(p.em.mean for p in points if (p.measure, p.method) == (measure, name)) for name in pair)
    return (constant, best) if best > constant else None


def _closed(best: Point, ends: tuple[float, float] | None) -> float | None:
    return None if ends is None else (best.em.mean - ends[0]) / (ends[1] - ends[0])
