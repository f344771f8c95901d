"""The drawing of plots: one style, the colours, and how a figure is saved."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.whole_files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 600  # of a line; a longer line is drawn as the means of this many spans of steps
# A plot tells this many candidates apart; the others are one band. The first seven colours are those of Okabe and Ito
# 2008, which most colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#B8A800", "#7F5539")
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.parse_math": False,  # a name with dollar signs in it is not a formula
    "svg.fonttype": "none",  # text stays text: small, and sharp in print
    "svg.hashsalt": "router-r1",  # the same metrics give the same file
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#57606a",
    "axes.grid": True,
    "grid.color": "#d8dee4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


@contextmanager
def figure_of(width: float, height: float, *, constrained: bool = True) -> Iterator[Figure]:
    """An empty figure in our style, of a size in inches. Constrained layout finds room for names beside the plot, but
    draws it twice."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained" if constrained else None)


@contextmanager
def drawing(wide: bool = False, height: float = 3.4) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one axis: as wide as a report's page, and then of a height in inches, or half as wide."""
    with figure_of(10.4, height) if wide else figure_of(5.1, 2.7, constrained=False) as figure:
        if not wide:
            figure.subplots_adjust(left=0.115, right=0.985, bottom=0.175, top=0.93)
        yield figure, figure.subplots()


def svg_of(figure: Figure) -> bytes:
    """The figure as SVG without date and creator, so that the same numbers give the same bytes."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return file.getvalue()


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure as PNG; write all of it or nothing."""
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)


def spans(values: np.ndarray) -> np.ndarray:
    """The values or, if there are more than `_MOST_POINTS`, the means of that many equal spans."""
    if len(values) <= _MOST_POINTS:
        return values
    return np.array([span.mean() for span in np.array_split(values, _MOST_POINTS)])
