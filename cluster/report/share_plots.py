"""The share plots of a report: who is asked how often, over a run's steps and by the rows of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cluster.report.page import Plot
from cluster.tracking.drawing import COLOURS, drawing, spans, svg_of

Row = Mapping[str, Any]

_BARS = 12  # evaluations up to which their shares are drawn as bars
_OTHERS = "#c8cdd2"  # the candidates that no colour is left for


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
    named = ranked if len(ranked) <= len(COLOURS) else ranked[: len(COLOURS)]
    return [_share_plot(shares, named, len(ranked), title, unit) for shares, title, unit in told if shares]


def row_shares_plot(shares: Mapping[str, Mapping[str, float]], note: str = "") -> Plot | None:
    """Who is asked by each row of an evaluation, the first at the top; None where nobody is asked by any."""
    rows = {name: row for name, row in shares.items() if row}
    if not rows:
        return None
    totals: dict[str, float] = {}
    for row in rows.values():
        for name, share in row.items():
            totals[name] = totals.get(name, 0.0) + share
    ranked = sorted(totals, key=lambda name: (-totals[name], name))
    named, others = ranked[: len(COLOURS)], ranked[len(COLOURS) :]
    bands = [
        (name, colour, [row.get(name, 0.0) for row in rows.values()])
        for name, colour in zip(named, COLOURS, strict=False)
    ]
    if others:
        rest = [sum(row.get(name, 0.0) for name in others) for row in rows.values()]
        bands.append((f"{len(others)} others", _OTHERS, rest))
    places = np.arange(len(rows))
    with drawing(wide=True, height=1.2 + 0.28 * len(rows)) as (figure, axis):
        left = np.zeros(len(rows))
        for name, colour, values in bands:
            axis.barh(places, values, 0.7, left, color=colour, label=name)
            left = left + np.array(values)
        axis.set_yticks(places, list(rows))
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        axis.grid(axis="y", visible=False)
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        svg = svg_of(figure)
    told = "; ".join(
        f"{row}: " + ", ".join(f"{name} {share:.0%}" for name, share in list(each.items())[:3])
        for row, each in rows.items()
    )
    return Plot("Calls by candidate", svg, f"Calls by candidate, the most asked of each row: {told}", note, wide=True)


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
    labels, colours = list(named), list(COLOURS[: len(named)])
    if candidates > len(named):
        lines.append([sum(share for name, share in row.items() if name not in named) for _, row in shares])
        labels.append(f"{candidates - len(named)} others")
        colours.append(_OTHERS)
    table = np.array([spans(np.array(line)) for line in lines])
    steps = spans(np.array([step for step, _ in shares]))
    with drawing(wide=True) as (figure, axis):
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
        svg = svg_of(figure)
    told = ", ".join(f"{name} {line[0]:.0%} to {line[-1]:.0%}" for name, line in zip(labels, table, strict=True))
    return Plot(title, svg, f"{title}, first step to last: {told}", unit, wide=True)
