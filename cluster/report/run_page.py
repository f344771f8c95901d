"""The report of a run: what its folder holds, put into a page that says the result first."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.evaluation.collapse import Constant
from benchmarks.evaluation.methods import POLICY
from benchmarks.evaluation.row_tables import methods_table
from cluster.config.loading import masked
from cluster.episodes.candidates import RunCards, run_cards
from cluster.report.episode_section import read_episodes, telling_episodes
from cluster.report.page import Listing, Page, Section
from cluster.report.run_evaluations import evaluation_sections, published_table
from cluster.report.run_findings import alarms, best_constant, figures, result, status
from cluster.report.run_plots import CURVES, LEARNING, SPEED, curves, phase_plot
from cluster.report.run_tables import (
    candidates_table,
    course_table,
    evaluation_table,
    settings_table,
)
from cluster.report.share_plots import share_plots
from cluster.runs.record import RunRecord, read_record

_TROUBLE = re.compile(r"^\d{4}-\d\d-\d\d \S+ (WARNING|ERROR|CRITICAL) ")
_LINES_SHOWN = 40
_EVALUATIONS_LEAD = (
    "The effective number of models is the exponential of the entropy of their shares of the calls: 1 if all calls go "
    "to one."
)
_CURVES_LEAD = "Faint lines are single steps, bold ones running means over a tenth of them; dots are evaluations."


def run_page(path: Path) -> Page:
    """The page of a run that is finished, going on or was stopped; what is not there yet is said to be missing.

    Raises:
        RunFolderError: it is no run folder, or a file of it is damaged.
    """
    record = read_record(path)
    cards = run_cards(record)
    constant = best_constant(record, cards)
    return Page(
        title=f"Router-R1: {record.name}",
        status=status(record),
        result=result(record),
        alarms=alarms(record, cards, constant),
        figures=figures(record),
        sections=[
            _evaluations(record, constant, len(cards.seen)),
            *evaluation_sections(record),
            _trained(record, cards),
            _curves(record),
            _routes(record),
            Section("Spending", "spending", tables=[candidates_table(record, cards)]),
            _speed(record),
            _trajectories(record),
            _log(record),
            _configuration(record),
        ],
        foot=f"Written {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC by router-r1 report, from the files of the "
        "run's folder. Intervals are Wilson's, at 95 %. Metrics are explained in cluster/runs/metrics.py; "
        "router-r1 ledger stats tells more of the calls.",
    )


def _evaluations(record: RunRecord, constant: Constant | None, candidates: int) -> Section:
    found = record.evaluations
    seen = {name: each for name, each in found.items() if not name.endswith("_unseen")}
    unseen = {name.removesuffix("_unseen"): each for name, each in found.items() if name.endswith("_unseen")}
    steps = {name: record.summary.get(f"{name}_step") for name in ("before", "after")}
    tables = [evaluation_table("Held-out questions, candidates seen in training", seen, steps)] if seen else []
    if unseen:
        tables.append(evaluation_table("Held-out questions, candidates never seen in training", unseen, steps))
    if course := course_table(record, constant, candidates):
        tables.append(course)
    if found:
        tables.append(methods_table([POLICY, *found]))
    if paper := published_table(record):
        tables.append(paper)
    lead = _EVALUATIONS_LEAD if seen else "No evaluation was made yet, so nothing is known of held-out questions."
    return Section("Evaluations", "evaluations", lead, tables)


def _trained(record: RunRecord, cards: RunCards) -> Section:
    about = str(record.config.get("about") or "")
    return Section("What was trained", "trained", about, tables=[settings_table(record, cards)])


def _curves(record: RunRecord) -> Section:
    plots, zero = curves(record.rows, (*CURVES, *LEARNING))
    lead = f"{_CURVES_LEAD}{_zero(zero)}" if record.trained else "No step of training has ended yet."
    return Section("Training curves", "curves", lead, plots=plots)


def _routes(record: RunRecord) -> Section:
    plots = share_plots(record.rows)
    return Section("Routes", "routes", "" if plots else "No call was made yet.", plots=plots)


def _speed(record: RunRecord) -> Section:
    plots, zero = curves(record.rows, SPEED)
    phases = phase_plot(record.rows)
    lead = _zero(zero).strip() if record.trained else "No step of training has ended yet."
    return Section("Speed", "speed", lead, plots=[phases, *plots] if phases else plots)


def _zero(titles: Sequence[str]) -> str:
    return f" Zero throughout, and not drawn: {', '.join(titles)}." if titles else ""


def _trajectories(record: RunRecord) -> Section:
    told = read_episodes(record.folder.path / "trajectories")
    episodes = telling_episodes(told)
    lead = (
        f"Picked from {len(told):,} sampled episodes in trajectories/, of the newest quarter of the steps: some right, "
        "some wrong, and the dearest. Replies are shown as the candidates sent them."
        if episodes
        else "No trajectory that was judged is in trajectories/ yet."
    )
    return Section("Trajectories", "trajectories", lead, episodes=episodes)


def _log(record: RunRecord) -> Section:
    file = record.folder.log_file
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    trouble = [(found[1], line) for line in lines if (found := _TROUBLE.match(line))]
    warnings = sum(level == "WARNING" for level, _ in trouble)
    lead = f"{_count(warnings, 'warning')} and {_count(len(trouble) - warnings, 'error')} in log.txt."
    stalls = len(list(record.folder.stalls_path.glob("*"))) if record.folder.stalls_path.is_dir() else 0
    if stalls:
        lead += f" {_count(stalls, 'file')} of stacks of what hung in stalls/."
    shown = [masked(line) for _, line in trouble[-_LINES_SHOWN:]]
    title = "All of them" if len(shown) == len(trouble) else f"The last {len(shown)} of them"
    return Section("Log", "log", lead, listings=[Listing(title, "\n".join(shown))] if shown else [])


def _configuration(record: RunRecord) -> Section:
    files = [record.folder.config_file, *sorted(record.folder.path.glob("config.*.yaml"))]
    lead = "As it was resolved. It holds no secrets: keys come from the environment."
    if len(files) > 1:
        lead += " The run went on with changed settings; config.1.yaml, … are what it had before."
    listings = [Listing(file.name, masked(file.read_text(encoding="utf-8", errors="replace"))) for file in files]
    return Section("Configuration", "configuration", lead, listings=listings)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
