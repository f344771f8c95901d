"""The evaluations of a run, in its report: those that lie in its folder or beside it, their frontier, and the paper's
rows on the run's data sets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from actors.questions import QuestionError
from benchmarks.evaluation.frontier import standings
from benchmarks.evaluation.pool_table import pool_tables
from benchmarks.evaluation.published import published_rows, quote
from benchmarks.evaluation.row_tables import methods_table, quoted_table, rows_table, sets_tables
from benchmarks.evaluation.tables import Table
from benchmarks.questions.flashrag import SETS
from benchmarks.questions.sources import is_named, load_source
from cluster.evaluation.frontier_points import read_points
from cluster.evaluation.record import EvaluationRecord, is_evaluation, read_evaluation, target_of
from cluster.report.evaluation_findings import alarms, methods_shown, result, status
from cluster.report.frontier import frontier_section
from cluster.report.page import Section
from cluster.runs.files import RunFolderError
from cluster.runs.record import RunRecord, setting

logger = logging.getLogger(__name__)

_FOLDER = "evaluations"


def evaluation_sections(record: RunRecord) -> list[Section]:
    """A section for each evaluation of the run, and one with the frontier of all; of the run's own where there are no
    others. None where nothing was evaluated."""
    found, faults = _evaluations(record)
    sections = [_section(number, each) for number, each in enumerate(found, 1)]
    if faults:
        sections.append(Section("Evaluations without a table", "unfinished", facts=faults))
    frontier = _frontier(record, found)
    return [*sections, *([frontier] if frontier else [])]


def published_table(record: RunRecord) -> Table | None:
    """The paper's rows where it has numbers for the run's data sets; None where it has none."""
    sources = setting(record.config, "data.eval")
    named = [name for source in sources or () for name in _sets(str(source))]
    sets = [name for name in dict.fromkeys(named) if name in SETS]
    base = "llama" if "llama" in str(setting(record.config, "policy.checkpoint")).lower() else "qwen"
    rows = [quote(row) for row in published_rows("em", sets, base)]
    return quoted_table("Published by the paper, not measured here: exact match", rows, sets) if rows else None


def _sets(source: str) -> list[str]:
    """The data sets of a source of questions: its name, or what a file says of its rows."""
    if is_named(source):
        return [source.removeprefix("flashrag:").partition("/")[0]]
    try:
        return list(dict.fromkeys(q.dataset for q in load_source(source, limit=None, two_hop_share=0.0)))
    except QuestionError as error:
        logger.warning("published rows are left out for a source of questions that can't be read: %s", error)
        return []


def _evaluations(record: RunRecord) -> tuple[list[EvaluationRecord], list[str]]:
    """The run's evaluations, and what is wrong with those that can't be shown."""
    found, faults = [], []
    for folder in _folders(record.folder.path.resolve()):
        try:
            found.append(read_evaluation(folder))
        except RunFolderError as error:
            faults.append(str(error))
    return found, faults


def _folders(run: Path) -> list[Path]:
    """Folders of evaluations within the run's, and those beside it in which one of its checkpoints played. These are
    told by the run's name, for the folders may have moved."""
    inside = [path for path in sorted((run / _FOLDER).glob("*")) if is_evaluation(path)]
    beside = [path for path in sorted((run.parent / _FOLDER).glob("*")) if is_evaluation(path)]
    return [*inside, *(path for path in beside if Path(target_of(path)).parent.parent.name == run.name)]


def _section(number: int, found: EvaluationRecord) -> Section:
    lines = [*result(found), *(f"Look at this: {alarm}" for alarm in alarms(found)), *found.notes]
    meanings = methods_table(methods_shown(found))
    pools = pool_tables(found.pools) if found.pools else ()
    tables = [rows_table(found), meanings, *sets_tables(found), *pools]
    return Section(f"Evaluation {found.name}", f"evaluation-{number}", status(found), tables=tables, facts=lines)


def _frontier(record: RunRecord, found: Sequence[EvaluationRecord]) -> Section | None:
    points, notes = read_points([each.path for each in found] or [record.folder.path])
    if not points:
        return None
    section = frontier_section(points, standings(points))
    return Section(section.title, section.anchor, tables=section.tables, plots=section.plots, facts=notes)
