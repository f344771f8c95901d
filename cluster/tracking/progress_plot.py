"""The plot of a run: reward, accuracy and cost over its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PANELS = (
    ("reward", (("reward/mean", "training batch", "-", "C0"),)),
    ("exact match", (("train/em", "training batch", "-", "C0"), ("eval/em", "held-out", "o--", "C1"))),
    (
        "USD per 1k questions",
        (
            ("cost/usd_per_1k_questions", "training batch", "-", "C0"),
            ("eval/cost_usd_per_1k_questions", "held-out", "o--", "C1"),
        ),
    ),
)


def plot_run(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw rows of metrics (`{"step": n, key: value, …}`) as a PNG of three panels; write all of it or nothing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 1, sharex=True)
    for axis, (title, lines) in zip(axes, _PANELS, strict=True):
        for key, label, style, color in lines:
            points = [(row["step"], row[key]) for row in metrics if row.get(key) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), style, color=color, label=label, markersize=5)
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(loc="best", frameon=False)
    axes[1].set_ylim(0, 1)
    axes[2].set_ylim(bottom=0)
    axes[2].set_xlabel("step")
    stage = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(stage, format="png", dpi=110)
        stage.replace(path)
    finally:
        stage.unlink(missing_ok=True)
