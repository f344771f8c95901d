"""Frontiers (`router-r1 frontier`): points of evaluations and runs, as a table, a picture and a page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.baseline_rows import UNTRAINED
from benchmarks.evaluation import Evaluation
from benchmarks.frontier import (
    BY_BUDGET,
    MOST_COMPETENT,
    SINGLE_IN_HINDSIGHT,
    BesideSweep,
    Point,
    Standing,
    beside_sweep,
    gap_of,
    standings,
)
from benchmarks.measure import EXACT
from benchmarks.protocol import BUDGET
from benchmarks.statistics import Interval
from cluster.disk import RunFolderError, write_whole, writing
from cluster.evaluation_record import Quoted, is_evaluation, read_evaluation
from cluster.frontier_plot import draw, save_png, svg_of
from cluster.report_evaluation_tables import quoted_table
from cluster.report_page import Column, Page, Plot, Section, Table, render
from cluster.run_record import RunRecord, read_record, setting

# By their names there. An evaluation's oracle and best_constant are other methods.
_OF_RUN = {"after": "policy", "oracle": MOST_COMPETENT, "best_single": SINGLE_IN_HINDSIGHT, "random": "random"}
_COLUMNS = ("measure", "points", "area", "best", "USD per 1k there", "of the gap closed")


def read_points(folders: Sequence[Path]) -> tuple[list[Point], list[str]]:
    """The points of evaluation folders and run folders, and what to be wary of when comparing them.

    Raises:
        RunFolderError: a folder is neither, or damaged.
    """
    points: list[Point] = []
    measured: dict[str, tuple[str, str]] = {}  # pool and questions, by folder
    notes: list[str] = []
    for folder in folders:
        if (folder / "evaluation.json").is_file():
            found, measured[str(folder)] = _evaluation_points(folder)
        else:
            found = _run_points(read_record(folder))
            if not found:
                notes.append(f"{folder}: the run has no evaluation yet, and is left out")
        points += found
    if len(set(measured.values())) > 1:
        told = "; ".join(f"{name}: pool {pool}, questions {asked}" for name, (pool, asked) in measured.items())
        notes.append(f"these were not measured with the same candidates and questions: {told}")
    if measured and len(measured) < len(set(map(str, folders))):
        notes.append("runs tell neither pool nor sets: whether they can be compared with the others is yours to judge")
    if len(measures := dict.fromkeys(point.measure for point in points)) > 1:
        notes.append(f"measures differ ({', '.join(measures)}): areas and gaps of different ones can't be compared")
    return list({(p.method, p.measure, p.knob, p.usd_per_1k, p.em.mean): p for p in points}.values()), notes


def evaluations_notes(folders: Sequence[Path]) -> list[str]:
    """What the evaluations among the folders say of themselves.

    Raises:
        RunFolderError: an evaluation is not finished or damaged.
    """
    records = (read_evaluation(folder) for folder in dict.fromkeys(folders) if is_evaluation(folder))
    return [f"{record.path}: {note}" for record in records for note in record.notes]


def published_beside(folders: Sequence[Path]) -> list[Quoted]:
    """The paper's rows that stand in the evaluations among the folders, of their data sets alone; each once.

    Raises:
        RunFolderError: an evaluation is not finished or damaged.
    """
    found: dict[tuple[str, str], Quoted] = {}
    for record in (read_evaluation(folder) for folder in folders if is_evaluation(folder)):
        for row in record.quoted:
            if row.metric == "em":
                scores = {name: score for name, score in row.scores.items() if name in record.sets}
                before = found.get((row.table, row.label))
                found[row.table, row.label] = replace(row, scores={**(before.scores if before else {}), **scores})
    return list(found.values())


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
    """The standings in Markdown, and how policies under budgets stand beside the sweep of α."""
    head = ["method", *_COLUMNS]
    rows = [head, ["---"] * len(head), *([standing.method, *_cells(standing)] for standing in found)]
    lines = [f"- {line}" for line in _under_budgets(points)]
    budgets = ["", *lines] if lines else []
    told = [f"Note: {note}" for note in (*_gaps(found), *notes)]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), *budgets, "", *told]).rstrip()


def _under_budgets(points: Sequence[Point]) -> list[str]:
    """How policies under budgets stand beside the sweep of α."""
    return [
        f"{beside.point.method.removesuffix(BY_BUDGET)}, {beside.point.knob}: {_right(beside.point)} for "
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


def _evaluation_points(folder: Path) -> tuple[list[Point], tuple[str, str]]:
    file = folder / "evaluation.json"
    try:
        numbers = json.loads(file.read_text(encoding="utf-8"))
        asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
        target = str(asked["target"])
        # Models at endpoints are other methods than a trained policy, and than each other.
        endpoint = f" ({target})" if "://" in target else ""
        alpha = "" if endpoint else _alpha(Path(target))
        pool = str(numbers["pool"]["fingerprint"])
        points = [replace(_row_point(row, folder, alpha, endpoint), pool=pool) for row in numbers["rows"]]
        swept = {point.method for point in points if point.knob.startswith("λ")}
        points = [replace(p, knob="λ=0") if p.method in swept and not p.knob else p for p in points]
        return points, (pool, str(asked["questions"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{file}: damaged ({error!r}); evaluate anew, or restore it") from error


def _row_point(row: dict[str, Any], folder: Path, alpha: str, endpoint: str) -> Point:
    """Quality against all that was paid, the policy's own tokens included where they have a price."""
    method, _, knob = str(row["name"]).partition(", λ=")
    method, _, budget = method.partition(BUDGET)
    mean, low, high = (
        math.nan if row["em"][name] is None else float(row["em"][name]) for name in ("mean", "low", "high")
    )
    is_policy = method.startswith("policy")
    if is_policy or method.partition(",")[0] in UNTRAINED:
        method += endpoint
    if budget:
        method, told = f"{method}{BY_BUDGET}", f"budget={budget} USD"
    else:
        told = f"λ={knob}" if knob else (alpha if is_policy else "")
    usd = float(row["usd_per_1k"]) + float(row["policy_usd_per_1k"])
    em = Interval(mean, low, high, int(row["em"]["questions"]))
    return Point(method, told, usd, em, str(folder), measure=row["measure"])


def _alpha(checkpoint: Path) -> str:
    """The weight of cost that a checkpoint's run was trained with; empty where it belongs to none."""
    run = checkpoint.parent.parent
    if not (run / "config.yaml").is_file():
        return ""
    return _knob(read_record(run))


def _run_points(record: RunRecord) -> list[Point]:
    return [
        Point(
            method,
            _knob(record) if name == "after" else "",
            record.evaluations[name].cost_usd_per_1k_questions,
            _interval(record.evaluations[name]),
            str(record.folder.path),
        )
        for name, method in _OF_RUN.items()
        if name in record.evaluations and not math.isnan(record.evaluations[name].em)
    ]


def _knob(record: RunRecord) -> str:
    if setting(record.config, "episode.budgets_usd"):
        return "budgets drawn"  # what is told turns it, and no α
    alpha = setting(record.config, "rewards.alpha")
    return "" if alpha is None else f"α={float(alpha):g}"


def _interval(found: Evaluation) -> Interval:
    """Wilson's interval of a share of questions: a run keeps its means, not its items."""
    if found.questions < 2:
        return Interval(found.em, math.nan, math.nan, found.questions)
    right = round(found.em * found.questions)
    bounds = stats.binomtest(right, found.questions).proportion_ci(method="wilson")
    return Interval(found.em, float(bounds.low), float(bounds.high), found.questions)


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


def _cells(standing: Standing) -> list[str]:
    best = standing.best
    closed = "–" if standing.gap_closed is None else f"{standing.gap_closed:.0%}"
    return [
        standing.measure,
        str(standing.points),
        f"{standing.area:.3f}",
        _right(best),
        f"{best.usd_per_1k:.4g}",
        closed,
    ]


def _right(point: Point) -> str:
    em = point.em
    return f"{em.mean:.3f}" + (f" ({em.low:.3f} - {em.high:.3f})" if em.known else "")


def frontier_section(points: Sequence[Point], found: Sequence[Standing], quoted: Sequence[Quoted] = ()) -> Section:
    """The methods' standings, all points and their picture; published rows beside them, which are not drawn."""
    gaps = "; ".join(_gaps(found))
    standing_table = Table(
        "Methods",
        [Column("method", numeric=False), *(Column(name, numeric=name != "measure") for name in _COLUMNS)],
        [[standing.method, *_cells(standing)] for standing in found],
        note="Area: mean quality of the convex hull over prices from 0 to the dearest point of all."
        + (f" {gaps[0].upper()}{gaps[1:]}." if gaps else ""),
    )
    text = [Column(name, numeric=False) for name in ("method", "knob")]
    point_table = Table(
        "Points",
        [
            *text,
            Column("price", "USD per 1k"),
            Column("right"),
            Column("measure", numeric=False),
            Column("pool", "fingerprint", numeric=False),
        ],
        [[p.method, p.knob, f"{p.usd_per_1k:.4g}", f"{p.em.mean:.3f}", p.measure, p.pool or None] for p in points],
        folded=len(points) > 12,
    )
    tables = [standing_table, point_table]
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
        sections=[replace(frontier_section(points, found, quoted), facts=carried)],
    )
