"""The plot of a run: reward, accuracy and cost over its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.tracking.drawing import COLOURS, figure_of, save_png

_PANELS = (
    ("reward", (("reward/mean", "training batch", "-"),)),
    ("exact match", (("train/em", "training batch", "-"), ("eval/em", "held-out", "o--"))),
    (
        "USD per 1k questions",
        (
            ("cost/usd_per_1k_questions", "training batch", "-"),
            ("eval/cost_usd_per_1k_questions", "held-out", "o--"),
        ),
    ),
)


def plot_run(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw rows of metrics (`{"step": n, key: value, …}`) as a PNG of three panels; write all of it or nothing."""
    with figure_of(7, 8) as figure:
        axes = figure.subplots(3, 1, sharex=True)
        for axis, (title, lines) in zip(axes, _PANELS, strict=True):
            for colour, (key, label, style) in zip(COLOURS, lines, strict=False):
                points = [(row["step"], row[key]) for row in metrics if row.get(key) is not None]
                if points:
                    axis.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=5)
            axis.set_ylabel(title)
            if axis.get_legend_handles_labels()[1]:
                axis.legend(loc="best")
        axes[1].set_ylim(0, 1)
        axes[2].set_ylim(bottom=0)
        axes[2].set_xlabel("step")
        save_png(figure, path)
