"""The plots of a report: a run's metrics over its steps, each drawn as a small SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cluster.report.page import Plot
from cluster.tracking.drawing import COLOURS, drawing, spans, svg_of

Row = Mapping[str, Any]

_SMOOTHED_FROM = 30  # points of a line, from which on its running mean is drawn before it


@dataclass(frozen=True, slots=True)
class Line:
    """A metric to draw, and what it is called; `dots` for what was measured now and then; a sum is not smoothed."""

    key: str
    name: str
    dots: bool = False
    smooth: bool = True


@dataclass(frozen=True, slots=True)
class Chart:
    """What goes into one plot."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    scale: Literal["share", "from zero", "free"] = "free"


CURVES = (
    Chart("Reward", "", (Line("reward/mean", "training batch"),)),
    Chart(
        "Exact match",
        "share of questions",
        (Line("train/em", "training batch"), Line("eval/em", "held-out questions", dots=True)),
        "share",
    ),
    Chart(
        "Price of 1,000 questions",
        "USD",
        (
            Line("cost/usd_per_1k_questions", "training batch"),
            Line("eval/cost_usd_per_1k_questions", "held-out questions", dots=True),
        ),
        "from zero",
    ),
    Chart("Calls per question", "", (
        Line("rollout/calls_per_question", "training batch"),
        Line("eval/calls_per_question", "held-out questions", dots=True),
    ), "from zero"),
    Chart("Supervised loss", "nats per token", (
        Line("sft/loss", "training batch"), Line("sft/heldout_loss", "held-out demonstrations", dots=True),
    )),
    Chart("Spent on candidates so far", "USD", (Line("cost/usd_total", "all candidates", smooth=False),), "from zero"),
)  # fmt: skip
LEARNING = (
    Chart("Entropy of the policy", "nats per token", (Line("policy/entropy", "entropy"),), "from zero"),
    Chart("KL", "nats per token", (
        Line("policy/kl_ref", "to the reference"), Line("policy/approx_kl", "to the sampler"),
    )),
    Chart("Clipped tokens", "share", (Line("policy/clip_fraction", "either side"),), "from zero"),
    Chart("Gradient norm", "before clipping", (Line("learner/grad_norm", "policy"), Line("critic/grad_norm", "critic")),
          "from zero"),
    Chart("Critic: explained variance", "share", (Line("critic/explained_variance", "critic"),)),
    Chart("Groups without signal", "share", (Line("learner/groups_without_signal", "all rewards alike"),), "share"),
)  # fmt: skip
SPEED = (
    Chart("Tokens per second", "tokens/s", (
        Line("rollout/tokens_per_s", "sampled"), Line("learner/tokens_per_s", "learnt from"),
    ), "from zero"),
    Chart("Idle", "share of the step", (
        Line("idle/engines", "engines"), Line("idle/learner", "learner"), Line("idle/callers", "callers"),
    ), "share"),
    Chart("Staleness", "policy versions", (
        Line("rollout/staleness", "oldest token"), Line("rollout/staleness_mean", "mean token"),
    ), "from zero"),
    Chart("Voided episodes", "share", (Line("rollout/void_share", "voided"),), "from zero"),
    Chart("Groups dropped as stale", "", (Line("rollout/stale_groups", "dropped"),), "from zero"),
)  # fmt: skip
PHASES = (
    ("time/rollout_s", "rollout"),
    ("time/learn_s", "learn"),
    ("time/sync_s", "weight sync"),
    ("time/checkpoint_s", "checkpoint"),
)


def curves(rows: Sequence[Row], charts: Sequence[Chart]) -> tuple[list[Plot], list[str]]:
    """A plot for each chart of which there is a number, and the titles of those whose numbers are all 0."""
    told = {chart: [_points(rows, line.key)[1] for line in chart.lines] for chart in charts}
    known = [chart for chart, lines in told.items() if any(len(values) for values in lines)]
    zero = [chart for chart in known if not any(values.any() for values in told[chart])]
    plots = [curve(rows, chart) for chart in known if chart not in zero]
    return [plot for plot in plots if plot is not None], [chart.title for chart in zero]


def curve(rows: Sequence[Row], chart: Chart) -> Plot | None:
    """Lines over the steps; None where no row has any of them."""
    told = [(line, *_points(rows, line.key)) for line in chart.lines]
    told = [(line, steps, values) for line, steps, values in told if len(steps)]
    if not told:
        return None
    with drawing() as (figure, axis):
        for colour, (line, steps, values) in zip(COLOURS, told, strict=False):
            if line.dots or len(steps) == 1:
                axis.plot(steps, values, "o--", color=colour, markersize=5, linewidth=1.2, label=line.name)
            elif len(steps) < _SMOOTHED_FROM or not line.smooth:
                axis.plot(steps, values, color=colour, linewidth=1.6, label=line.name)
            else:
                axis.plot(steps, values, color=colour, linewidth=0.7, alpha=0.35)
                axis.plot(steps, _running_mean(values), color=colour, linewidth=1.8, label=line.name)
        if chart.scale == "share":
            axis.set_ylim(-0.02, 1.02)
        elif chart.scale == "from zero":
            top = max(float(np.max(values)) for _, _, values in told)
            axis.set_ylim(0, 1.08 * top if top > 0 else 1)
        if len(told) > 1 or told[0][0].dots:
            axis.legend(loc="best")
        axis.set_xlabel("step")
        svg = svg_of(figure)
    words = "; ".join(_words(line.name, steps, values) for line, steps, values in told)
    return Plot(chart.title, svg, f"{chart.title}: {words}", chart.unit)


def phase_plot(rows: Sequence[Row]) -> Plot | None:
    """Seconds of each phase, over the steps, one upon the other."""
    having = [row for row in rows if row.get("time/step_s") is not None]
    if not having:
        return None
    steps = spans(np.array([row["step"] for row in having], dtype=float))
    seconds = {name: spans(np.array([float(row.get(key) or 0.0) for row in having])) for key, name in PHASES}
    seconds = {name: values for name, values in seconds.items() if values.any()}
    with drawing() as (figure, axis):
        bottom = np.zeros(len(steps))
        width = float(np.min(np.diff(steps))) if len(steps) > 1 else 0.8
        for colour, (name, values) in zip(COLOURS, seconds.items(), strict=False):
            axis.bar(steps, values, width, bottom, color=colour, label=name)
            bottom = bottom + values
        axis.legend(loc="best")
        axis.set_xlabel("step")
        svg = svg_of(figure)
    told = ", ".join(f"{name} {values.mean():.2f} s" for name, values in seconds.items())
    return Plot("Time per step, by phase", svg, f"Mean seconds of a step's phases: {told}", "s")


def _points(rows: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray]:
    found = [(row["step"], float(row[key])) for row in rows if isinstance(row.get(key), int | float)]
    points = np.array(found, dtype=float).reshape(-1, 2)
    return spans(points[:, 0]), spans(points[:, 1])


def _running_mean(values: np.ndarray) -> np.ndarray:
    """The mean of a tenth of the values around each; at the ends of those that there are."""
    half = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return np.asarray((sums[high] - sums[low]) / (high - low))


def _words(name: str, steps: np.ndarray, values: np.ndarray) -> str:
    if len(values) == 1:
        return f"{name} {values[0]:.4g} at step {steps[0]:g}"
    return f"{name} {values[0]:.4g} at step {steps[0]:g}, {values[-1]:.4g} at step {steps[-1]:g}"
