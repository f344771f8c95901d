"""The plot of a frontier: each method's points with their intervals, and its hull."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.evaluation.frontier import Point, Standing, hull
from benchmarks.evaluation.measure import EXACT
from cluster.tracking.drawing import COLOURS, figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKS = "os^Dv"
_HEIGHT, _NAME_HEIGHT = 5.0, 0.22  # inches; of the picture at least, and of a method's name beside it


def draw(points: Sequence[Point], methods: Sequence[Standing]) -> Figure:
    """Points with their intervals, and each method's hull; in the order of the standings."""
    with figure_of(8, max(_HEIGHT, _NAME_HEIGHT * len(methods))) as figure:
        axis = figure.subplots()
        for number, method in enumerate(methods):
            mine = [p for p in points if (p.method, p.measure) == (method.method, method.measure)]
            mine.sort(key=lambda p: p.usd_per_1k)
            label = method.method + ("" if method.measure == EXACT else f" ({method.measure})")
            prices, ems = [p.usd_per_1k for p in mine], [p.em.mean for p in mine]
            low = [p.em.mean - p.em.low if p.em.known else 0.0 for p in mine]
            high = [p.em.high - p.em.mean if p.em.known else 0.0 for p in mine]
            colour, mark = COLOURS[number % len(COLOURS)], _MARKS[number // len(COLOURS) % len(_MARKS)]
            axis.errorbar(prices, ems, (low, high), fmt=mark, color=colour, label=label, capsize=2, markersize=5)
            if len(mine) > 1:
                axis.plot(*zip(*hull(list(zip(prices, ems, strict=True)))[1:], strict=True), color=colour, alpha=0.6)
            for point in mine:
                axis.annotate(point.knob, (point.usd_per_1k, point.em.mean), (3, 3), textcoords="offset points", size=7)
        axis.set_xlabel("USD per 1,000 questions")
        axis.set_ylabel(" or ".join(dict.fromkeys(method.measure for method in methods)))
        axis.set_xlim(left=0)
        figure.legend(loc="outside right upper")
    return figure
