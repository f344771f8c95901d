"""The frontier: what quality a method reaches for how many dollars, the area under that, and how much of the gap
between a constant choice and the best one it closes."""

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

BY_BUDGET = ", by budget"  # ends the name of a policy that was told what it may spend
# Of an evaluation and of a run; the first that is there counts.
_GAPS = ((BEST_CONSTANT_TRAINING, CHEAPEST_RIGHT), (BEST_CONSTANT_HINDSIGHT, MOST_COMPETENT))


class FrontierError(ExplainedError, ValueError):
    """There is nothing to draw; the message tells why."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement of a method."""

    method: str
    knob: str  # what was turned for it, such as λ=0.1; empty where there is nothing to turn
    usd_per_1k: float
    em: Interval
    source: str  # where it was read
    pool: str = ""  # fingerprint of the candidates; empty where it is not known
    measure: Measure = EXACT  # that `em` is by


@dataclass(frozen=True, slots=True)
class Standing:
    """A method over all its points."""

    method: str
    measure: Measure  # only what has the same one can be compared
    points: int
    area: float  # mean quality over prices from 0 to the dearest of all methods'
    best: Point  # of the highest quality, the cheapest of those alike
    gap_closed: float | None  # share of the way between the two of `gap_of`; None without them


@dataclass(frozen=True, slots=True)
class BesideSweep:
    """A policy under one budget, beside those trained for several α."""

    point: Point
    sweep: float | None  # the quality that theirs reach for its price, on their hull; None where all are dearer

    @property
    def verdict(self) -> Literal["above", "within", "below", "none"]:
        """`within`: below, by no more than the interval can tell; `none` where there is nothing to judge by."""
        em = self.point.em
        if self.sweep is None or math.isnan(em.mean):
            return "none"
        if em.mean >= self.sweep:
            return "above"
        if not em.known:
            return "none"
        return "within" if em.high >= self.sweep else "below"


def hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The non-decreasing upper convex hull of (price, quality), from (0, 0), where nobody is asked, to the best one.

    Any point on it can be had by tossing a coin between its two neighbours. Source: RouterBench (Hu et al. 2024,
    arXiv 2403.12031), section 3.2; the origin is ours.
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
    """Mean of the hull's quality over prices from 0 to `dearest`; where that is 0, the quality that is free."""
    edge = hull(points)
    if dearest == 0:
        return edge[0][1]
    prices = np.array([price for price, _ in edge if price < dearest] + [dearest])
    qualities = np.interp(prices, *np.transpose(edge))
    return float(np.trapezoid(qualities, prices) / dearest)


def standings(points: Sequence[Point]) -> list[Standing]:
    """Every method, by exact match first, then by other measures; of each the one with the largest area first.

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
    """Every point under a budget beside the sweep of α, the cheapest first; none where fewer than two α were tried.

    The sweep is of the same measure, and of the same pool as far as pools are known.
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
    """The constant choice and the best one between which the gap by a measure is; both are of the same kind."""
    methods = {row.method for row in rows if row.measure == measure}
    return next((pair for pair in _GAPS if methods.issuperset(pair)), None)


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return float("inf") if a[0] == b[0] else (b[1] - a[1]) / (b[0] - a[0])


def _ends(points: Sequence[Point], measure: Measure) -> tuple[float, float] | None:
    """Quality of the constant choice and of the best one; None where one is missing or they are alike."""
    pair = gap_of(points, measure)
    if pair is None:
        return None
    constant, best = (max(p.em.mean for p in points if (p.measure, p.method) == (measure, name)) for name in pair)
    return (constant, best) if best > constant else None


def _closed(best: Point, ends: tuple[float, float] | None) -> float | None:
    return None if ends is None else (best.em.mean - ends[0]) / (ends[1] - ends[0])
