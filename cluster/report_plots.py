"""The plots of a report: a run's metrics over its steps, each drawn as a small SVG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cluster.report_page import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

_MOST_POINTS = 600  # of a line; more are drawn as means of as many spans of steps
_SMOOTHED_FROM = 30  # points of a line, from which on its running mean is drawn before it
_BARS = 12  # evaluations up to which their shares are drawn as bars
# As many candidates are told apart, the others are one band. The first seven are those of Okabe and Ito 2008, which
# most who do not see all colours can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#B8A800", "#7F5539")
_OTHERS = "#c8cdd2"
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.5,
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
    with _drawing() as (figure, axis):
        for colour, (line, steps, values) in zip(_COLOURS, told, strict=False):
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
        svg = _svg(figure)
    words = "; ".join(_words(line.name, steps, values) for line, steps, values in told)
    return Plot(chart.title, svg, f"{chart.title}: {words}", chart.unit)


def share_plots(rows: Sequence[Row]) -> list[Plot]:
    """Who is asked, in the batches of training and by the evaluations; a candidate has the same colour in both."""
    wanted = (
        ("rollout/call_share/", "Calls by candidate, training", "share of a batch's calls"),
        ("eval/call_share/", "Calls by candidate, held-out questions", "share of the calls"),
    )
    told = [(_shares(rows, prefix), title, unit) for prefix, title, unit in wanted]
    known = [shares for shares, _, _ in told if shares]
    means: dict[str, float] = {}
    for shares in known:
        for name in {name for _, row in shares for name in row}:
            means.setdefault(name, sum(row.get(name, 0.0) for _, row in shares) / len(shares))
    ranked = sorted(means, key=lambda name: (-means[name], name))
    named = ranked if len(ranked) <= len(_COLOURS) else ranked[: len(_COLOURS)]
    return [_share_plot(shares, named, len(ranked), title, unit) for shares, title, unit in told if shares]


def _shares(rows: Sequence[Row], prefix: str) -> list[tuple[float, dict[str, float]]]:
    """Steps, and the shares by candidate of those that have any."""
    found = []
    for row in rows:
        shares = {key.removeprefix(prefix): float(row[key] or 0.0) for key in row if key.startswith(prefix)}
        if shares:
            found.append((float(row["step"]), shares))
    return found


def _share_plot(
    shares: Sequence[tuple[float, dict[str, float]]], named: Sequence[str], candidates: int, title: str, unit: str
) -> Plot:
    lines = [[row.get(name, 0.0) for _, row in shares] for name in named]
    labels, colours = list(named), list(_COLOURS[: len(named)])
    if candidates > len(named):
        lines.append([sum(share for name, share in row.items() if name not in named) for _, row in shares])
        labels.append(f"{candidates - len(named)} others")
        colours.append(_OTHERS)
    table = np.array([_spans(np.array(line)) for line in lines])
    steps = _spans(np.array([step for step, _ in shares]))
    with _drawing(wide=True) as (figure, axis):
        if len(steps) <= _BARS:  # between few there is nothing to be drawn
            places = np.arange(len(steps))
            bottoms = np.cumsum(table, axis=0) - table
            for label, colour, line, bottom in zip(labels, colours, table, bottoms, strict=True):
                axis.bar(places, line, 0.6, bottom, color=colour, label=label)
            axis.set_xticks(places, [f"{step:g}" for step in steps])
            axis.set_xlim(-0.7, max(len(steps), 4) - 0.3)
        else:
            axis.stackplot(steps, table, labels=labels, colors=colours, linewidth=0.3, edgecolor="white")
            axis.set_xlim(steps[0], steps[-1])
        axis.set_ylim(0, 1)
        axis.set_xlabel("step")
        handles, texts = axis.get_legend_handles_labels()
        axis.legend(handles[::-1], texts[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5))
        svg = _svg(figure)
    told = ", ".join(f"{name} {line[0]:.0%} to {line[-1]:.0%}" for name, line in zip(labels, table, strict=True))
    return Plot(title, svg, f"{title}, first step to last: {told}", unit, wide=True)


def phase_plot(rows: Sequence[Row]) -> Plot | None:
    """Seconds of each phase, over the steps, one upon the other."""
    having = [row for row in rows if row.get("time/step_s") is not None]
    if not having:
        return None
    steps = _spans(np.array([row["step"] for row in having], dtype=float))
    seconds = {name: _spans(np.array([float(row.get(key) or 0.0) for row in having])) for key, name in PHASES}
    seconds = {name: values for name, values in seconds.items() if values.any()}
    with _drawing() as (figure, axis):
        bottom = np.zeros(len(steps))
        width = float(np.min(np.diff(steps))) if len(steps) > 1 else 0.8
        for colour, (name, values) in zip(_COLOURS, seconds.items(), strict=False):
            axis.bar(steps, values, width, bottom, color=colour, label=name)
            bottom = bottom + values
        axis.legend(loc="best")
        axis.set_xlabel("step")
        svg = _svg(figure)
    told = ", ".join(f"{name} {values.mean():.2f} s" for name, values in seconds.items())
    return Plot("Time per step, by phase", svg, f"Mean seconds of a step's phases: {told}", "s")


@contextmanager
def _drawing(wide: bool = False) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one axis, in the report's style; as wide as the page, or half."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        # Constrained layout finds room for names beside the plot, but draws it twice.
        figure = Figure(figsize=(10.4, 3.4), layout="constrained") if wide else Figure(figsize=(5.1, 2.7))
        if not wide:
            figure.subplots_adjust(left=0.115, right=0.985, bottom=0.175, top=0.93)
        yield figure, figure.subplots()


def _svg(figure: Figure) -> bytes:
    """The figure as SVG without date and creator, so that the same numbers give the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return file.getvalue()


def _points(rows: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray]:
    found = [(row["step"], float(row[key])) for row in rows if isinstance(row.get(key), int | float)]
    points = np.array(found, dtype=float).reshape(-1, 2)
    return _spans(points[:, 0]), _spans(points[:, 1])


def _spans(values: np.ndarray) -> np.ndarray:
    """The values, or where they are many the means of as many equal spans as can be told apart."""
    if len(values) <= _MOST_POINTS:
        return values
    return np.array([span.mean() for span in np.array_split(values, _MOST_POINTS)])


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
