"""Frontiers (`router-r1 frontier`): points of evaluations and runs, as a table, a picture and a page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from actors.whole_files import write_whole
from benchmarks.evaluation.formats import interval_text
from benchmarks.evaluation.frontier import (
    BY_BUDGET,
    BesideSweep,
    Point,
    Standing,
    beside_sweep,
    gap_of,
    standings,
)
from benchmarks.evaluation.measure import EXACT
from benchmarks.evaluation.methods import definitions
from benchmarks.evaluation.published import Quoted
from benchmarks.evaluation.row_tables import methods_table, quoted_table
from benchmarks.evaluation.tables import Column, Table, markdown, text_columns
from cluster.report.frontier_plot import draw
from cluster.report.page import Page, Plot, Section, render
from cluster.runs.files import writing
from cluster.tracking.drawing import save_png, svg_of


def write_frontier(
    points: Sequence[Point],
    notes: Sequence[str],
    out: Path,
    *,
    carried: Sequence[str] = (),
    quoted: Sequence[Quoted] = (),
) -> list[Standing]:
    """Write `frontier.csv`, `frontier.png` and `frontier.html`, and return the methods' standings. Published rows
    stand in the first and the last, marked as such.

    Args:
        notes: what to be wary of.
        carried: what the evaluations say of themselves.

    Raises:
        FrontierError: there are no points.
        RunFolderError: they can't be written.
    """
    found = standings(points)
    figure = draw(points, found)
    with writing(out, "the frontier"):
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "frontier.csv", _csv(points, quoted))
        save_png(figure, out / "frontier.png")
        write_whole(out / "frontier.html", render(_page(points, found, notes, carried, quoted)))
    return found


def describe(points: Sequence[Point], found: Sequence[Standing], notes: Sequence[str]) -> str:
    """The standings in Markdown, how policies under budgets stand beside the sweep of α, and what the methods are."""
    budgets = "\n".join(f"- {line}" for line in _under_budgets(points))
    methods = "\n".join(f"- {line}" for line in definitions(standing.method for standing in found))
    told = "\n".join(f"Note: {note}" for note in (*_gaps(found), *notes))
    return "\n\n".join(part for part in (markdown(_standings_table(found)), budgets, methods, told) if part)


def _under_budgets(points: Sequence[Point]) -> list[str]:
    """How policies under budgets stand beside the sweep of α."""
    return [
        f"{beside.point.method.removesuffix(BY_BUDGET)}, {beside.point.knob}: {interval_text(beside.point.em)} for "
        f"{beside.point.usd_per_1k:.4g} USD per 1k, {_judged(beside)}"
        for beside in beside_sweep(points)
    ]


def _judged(beside: BesideSweep) -> str:
    if beside.sweep is None:
        return "cheaper than every run of the sweep of α"
    words = {
        "above": "at or above",
        "within": "below, by no more than the interval can tell,",
        "below": "BELOW",
        "none": "without a verdict beside",
    }
    return f"{words[beside.verdict]} the {beside.sweep:.3f} that the sweep of α reaches for as much"


def _gaps(found: Sequence[Standing]) -> list[str]:
    """Between which methods the gap is that others close a share of."""
    pairs = {measure: gap_of(found, measure) for measure in dict.fromkeys(standing.measure for standing in found)}
    return [f"gap by {measure}: from {pair[0]} to {pair[1]}" for measure, pair in pairs.items() if pair]


def _csv(points: Sequence[Point], quoted: Sequence[Quoted]) -> str:
    """A line for each point. Published rows, whose price in the paper is another one, have none; their exact match is
    the mean over the sets that are named in their source."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["method", "knob", "usd_per_1k", "em", "em_low", "em_high", "measure", "questions", "source", "pool"]
    )
    for point in points:
        bounds = ("", "") if not point.em.known else (point.em.low, point.em.high)
        quality = (point.em.mean, *bounds, point.measure, point.em.questions)
        writer.writerow((point.method, point.knob, point.usd_per_1k, *quality, point.source, point.pool))
    for each in quoted:
        source = f"published, not measured here: {each.table}, mean over {', '.join(each.scores)}"
        mean = math.fsum(each.scores.values()) / len(each.scores)
        writer.writerow((each.label, "", "", mean, "", "", EXACT, "", source, "; ".join(each.pool or ())))
    return text.getvalue()


def _standings_table(found: Sequence[Standing]) -> Table:
    """The standings, the largest area first."""
    gaps = "; ".join(_gaps(found))
    columns = [*text_columns("method", "measure"), Column("points"), Column("area"), Column("best"),
               Column("USD per 1k there"), Column("of the gap closed")]  # fmt: skip
    rows = [
        [
            standing.method, standing.measure, str(standing.points), f"{standing.area:.3f}",
            interval_text(standing.best.em), f"{standing.best.usd_per_1k:.4g}",
            None if standing.gap_closed is None else f"{standing.gap_closed:.0%}",
        ]
        for standing in found
    ]  # fmt: skip
    note = "Area: mean quality of the convex hull over prices from 0 to the dearest point of all."
    return Table("Methods", columns, rows, note + (f" {gaps[0].upper()}{gaps[1:]}." if gaps else ""))


def _points_table(points: Sequence[Point]) -> Table:
    columns = [*text_columns("method", "knob"), Column("price", "USD per 1k"), Column("right"),
               *text_columns("measure"), Column("pool", "fingerprint", numeric=False)]  # fmt: skip
    rows = [[p.method, p.knob, f"{p.usd_per_1k:.4g}", f"{p.em.mean:.3f}", p.measure, p.pool or None] for p in points]
    return Table("Points", columns, rows, folded=len(points) > 12)


def frontier_section(points: Sequence[Point], found: Sequence[Standing], quoted: Sequence[Quoted] = ()) -> Section:
    """The methods' standings, all points and their picture; published rows beside them, which are not drawn."""
    tables = [_standings_table(found), _points_table(points)]
    if quoted:
        sets = list(dict.fromkeys(name for row in quoted for name in row.scores))
        tables.append(
            quoted_table("Published by the paper, not measured here, and not drawn: exact match", quoted, sets)
        )
    words = f"{len(points)} points of {len(found)} methods"
    svg = svg_of(draw(points, found))
    return Section(
        "Frontier", "frontier", tables=tables, plots=[Plot("Quality against dollars", svg, words, wide=True)]
    )


def _page(
    points: Sequence[Point],
    found: Sequence[Standing],
    notes: Sequence[str],
    carried: Sequence[str],
    quoted: Sequence[Quoted],
) -> Page:
    section = frontier_section(points, found, quoted)
    first: dict[str, Standing] = {}  # of each measure
    for standing in found:
        first.setdefault(standing.measure, standing)
    return Page(
        title="Quality against dollars",
        status=f"{len(points)} points of {len(found)} methods",
        result=[
            *(f"The largest area by {name} is that of {s.method}: {s.area:.3f}." for name, s in first.items()),
            *_under_budgets(points),
        ],
        alarms=notes,
        sections=[replace(section, tables=[*section.tables, methods_table([s.method for s in found])], facts=carried)],
    )
