"""The points of a frontier, read from the folders of evaluations and runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.baselines.rows import UNTRAINED
from benchmarks.evaluation.evaluated import is_policy
from benchmarks.evaluation.frontier import BY_BUDGET, Point
from benchmarks.evaluation.methods import AFTER, BEST_CONSTANT_HINDSIGHT, MOST_COMPETENT, POLICY, RANDOM
from benchmarks.evaluation.protocol import BUDGET
from benchmarks.evaluation.published import Quoted
from benchmarks.evaluation.row_summary import RowSummary
from benchmarks.evaluation.statistics import share_interval
from cluster.evaluation.record import EvaluationRecord, is_evaluation, read_evaluation
from cluster.runs.record import RunRecord, read_record, setting

_OF_RUN = (AFTER, MOST_COMPETENT, BEST_CONSTANT_HINDSIGHT, RANDOM)  # what a run has a point of


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


def _evaluation_points(folder: Path) -> tuple[list[Point], tuple[str, str]]:
    record = read_evaluation(folder)
    target = str(record.asked["target"])
    # Models at endpoints are other methods than a trained policy, and than each other.
    endpoint = f" ({target})" if "://" in target else ""
    alpha = "" if endpoint else _alpha(Path(target))
    points = [_row_point(row, record, alpha, endpoint) for row in record.rows]
    swept = {point.method for point in points if point.knob.startswith("λ")}
    points = [replace(p, knob="λ=0") if p.method in swept and not p.knob else p for p in points]
    return points, (record.pool, str(record.asked["questions"]))


def _row_point(row: RowSummary, record: EvaluationRecord, alpha: str, endpoint: str) -> Point:
    """Quality against all that was paid, the policy's own tokens included where they have a price."""
    method, _, knob = row.name.partition(", λ=")
    method, _, budget = method.partition(BUDGET)
    if is_policy(row) or method.partition(",")[0] in UNTRAINED:
        method += endpoint
    if budget:
        method, told = f"{method}{BY_BUDGET}", f"budget={budget} USD"
    else:
        told = f"λ={knob}" if knob else (alpha if is_policy(row) else "")
    usd = row.usd_per_1k + row.policy_usd_per_1k
    return Point(method, told, usd, row.em, str(record.path), record.pool, row.measure)


def _alpha(checkpoint: Path) -> str:
    """The weight of cost that a checkpoint's run was trained with; empty where it belongs to none."""
    run = checkpoint.parent.parent
    if not (run / "config.yaml").is_file():
        return ""
    return _knob(read_record(run))


def _run_points(record: RunRecord) -> list[Point]:
    return [
        Point(
            POLICY if name == AFTER else name,
            _knob(record) if name == AFTER else "",
            record.evaluations[name].cost_usd_per_1k_questions,
            share_interval(record.evaluations[name].em, record.evaluations[name].questions),
            str(record.folder.path),
        )
        for name in _OF_RUN
        if name in record.evaluations and not math.isnan(record.evaluations[name].em)
    ]


def _knob(record: RunRecord) -> str:
    if setting(record.config, "episode.budgets_usd"):
        return "budgets drawn"  # what is told turns it, and no α
    alpha = setting(record.config, "rewards.alpha")
    return "" if alpha is None else f"α={float(alpha):g}"
