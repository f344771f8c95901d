"""The frontier: what quality a method reaches for how many dollars, the area under that, and how near the oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.statistics import Interval

ORACLE, SINGLE = "oracle", "best_constant"


class FrontierError(ValueError):
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


@dataclass(frozen=True, slots=True)
class Standing:
    """A method over all its points."""

    method: str
    points: int
    area: float  # mean quality over prices from 0 to the dearest of all methods'
    best: Point  # of the highest exact match, the cheapest of those alike
    gap_closed: float | None  # share of the way from the best single candidate to the oracle; None without the two


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
    """Every method, the one with the largest area first.

    Raises:
        FrontierError: there are no points.
    """
    if not points:
        raise FrontierError("no rows to draw; give evaluation folders (router-r1 evaluate) or runs that were evaluated")
    dearest = max(point.usd_per_1k for point in points)
    methods: dict[str, list[Point]] = {}
    for point in points:
        methods.setdefault(point.method, []).append(point)
    ends = _ends(methods)
    found = []
    for method, mine in methods.items():
        best = min(mine, key=lambda point: (-point.em.mean, point.usd_per_1k))
        pairs = [(point.usd_per_1k, point.em.mean) for point in mine]
        found.append(Standing(method, len(mine), area(pairs, dearest), best, _closed(best, ends)))
    return sorted(found, key=lambda standing: (-standing.area, standing.method))


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return float("inf") if a[0] == b[0] else (b[1] - a[1]) / (b[0] - a[0])


def _ends(methods: Mapping[str, Sequence[Point]]) -> tuple[float, float] | None:
    """Quality of the best single candidate and of the oracle; None where one is missing or they are alike."""
    if ORACLE not in methods or SINGLE not in methods:
        return None
    single, oracle = (max(point.em.mean for point in methods[name]) for name in (SINGLE, ORACLE))
    return (single, oracle) if oracle > single else None


def _closed(best: Point, ends: tuple[float, float] | None) -> float | None:
    return None if ends is None else (best.em.mean - ends[0]) / (ends[1] - ends[0])
