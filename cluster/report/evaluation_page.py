"""The report of an evaluation: what its folder holds, put into a page that says the result first."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from pathlib import Path

from actors.ledger.database import FILE_NAME as LEDGER
from actors.ledger.database import existing_ledger
from actors.ledger.entry import LedgerError
from actors.ledger.report import spend
from benchmarks.evaluation.frontier import standings
from benchmarks.evaluation.pool_table import POOLS_LEAD, PoolTable, pool_tables
from benchmarks.evaluation.row_tables import NOBODY_ASKED, VERDICT_NOTE, cards_table, result_tables, shares_table
from benchmarks.evaluation.tables import Column, Table, text_columns
from cluster.evaluation.frontier_points import read_points
from cluster.evaluation.record import EvaluationRecord, read_evaluation
from cluster.report.evaluation_findings import alarms, figures, methods_shown, result, status, subject
from cluster.report.frontier import frontier_section
from cluster.report.page import Page, Section
from cluster.report.question_section import telling_questions
from cluster.report.run_tables import usd
from cluster.report.share_plots import row_shares_plot


def evaluation_page(path: Path) -> Page:
    """The page of a finished evaluation.

    Raises:
        RunFolderError: it is none, it is not finished, or a file of it is damaged.
    """
    record = read_evaluation(path)
    return Page(
        title=f"Router-R1: evaluation {record.name}",
        status=status(record),
        result=result(record),
        alarms=alarms(record),
        figures=figures(record),
        sections=[
            *([_verdict(record)] if record.verdicts else []),
            _results(record),
            *([_pools(record.pools)] if record.pools else []),
            _frontier(record),
            _calls(record),
            Section("Candidates", "candidates", tables=[cards_table(record)]),
            _spending(record),
            _questions(record),
            _asked(record),
        ],
        foot=f"Written {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC by router-r1 report, from the files of the "
        "evaluation's folder. Intervals are bootstrapped over questions, at 95 %; p-values are of paired tests.",
    )


def _verdict(record: EvaluationRecord) -> Section:
    return Section("Verdict", "verdict", VERDICT_NOTE, facts=record.verdicts)


def _results(record: EvaluationRecord) -> Section:
    notes = [f"Note: {note}" for note in record.notes]
    return Section("Results", "results", facts=notes, tables=result_tables(record, methods_shown(record)))


def _pools(found: PoolTable) -> Section:
    return Section("With other candidates", "pools", POOLS_LEAD, tables=pool_tables(found))


def _frontier(record: EvaluationRecord) -> Section:
    points, _ = read_points([record.path])
    return frontier_section(points, standings(points))


def _calls(record: EvaluationRecord) -> Section:
    table = shares_table(record)
    if table is None:
        return Section("Calls", "calls", NOBODY_ASKED)
    several = {row.name: row.call_share for row in record.ranked if len(row.call_share) > 1}
    plot = row_shares_plot(several, "share of the calls; rows that ask one candidate alone are left out")
    return Section("Calls", "calls", tables=[table], plots=[plot] if plot else [])


def _spending(record: EvaluationRecord) -> Section:
    lead = f"The calls that this evaluation made cost {usd(record.spent_usd)}."
    tables = [_by_row(record)]
    if (record.path / LEDGER).is_file():
        try:
            with existing_ledger(record.path) as connection:
                found = spend(connection, ["model"])
        except LedgerError as error:
            lead += f" Its ledger can't be read: {error}"
        else:
            tables.append(_by_candidate({row["model"]: (row["calls"], row["cost_usd"]) for row in found}))
    return Section("Spending", "spending", lead, tables=tables)


def _by_row(record: EvaluationRecord) -> Table:
    answers, paid, own = (defaultdict[str, float](float) for _ in range(3))
    for item in record.read_items():
        answers[item.row] += 1
        paid[item.row] += item.cost_usd
        own[item.row] += item.policy_usd
    rows = [[row.name, f"{answers[row.name]:,.0f}", f"{paid[row.name]:,.4f}", f"{own[row.name]:,.4f}"]
            for row in record.ranked]  # fmt: skip
    columns = [*text_columns("Row"), Column("Answers"), Column("Candidates", "USD"), Column("Its own tokens", "USD")]
    note = (
        "What each row's answers cost at the cards' prices. Baselines that were played over replies which are there "
        "already, and calls from a ledger, cost that much without being paid anew."
    )
    return Table(
        "By row", columns, rows, note, frozenset(at for at, row in enumerate(record.ranked) if row == subject(record))
    )


def _by_candidate(spent: dict[str, tuple[int, float]]) -> Table:
    names = sorted(spent, key=lambda name: (-spent[name][1], name))
    rows = [[name, f"{spent[name][0]:,}", f"{spent[name][1]:,.4f}"] for name in names]
    total = math.fsum(usd for _, usd in spent.values())
    rows.append(["All", f"{sum(calls for calls, _ in spent.values()):,}", f"{total:,.4f}"])
    columns = [Column("Candidate", numeric=False), Column("Calls"), Column("Spent", "USD")]
    return Table("By candidate", columns, rows, "Every call in the folder's ledger.sqlite.", frozenset([len(rows) - 1]))


def _questions(record: EvaluationRecord) -> Section:
    row = subject(record).name
    episodes = telling_questions(record, row)
    lead = (
        f"Some questions of {row}: right after asking, wrong (those first that some candidate has right), and the "
        "dearest."
        if episodes
        else f"No answer of {row} is in items.jsonl."
    )
    return Section("Questions", "questions", lead, episodes=episodes)


def _asked(record: EvaluationRecord) -> Section:
    rules = record.asked.get("rules")
    told = {
        **{name: text.replace("`", "") for name, text in record.about.items()},
        **{name: record.asked.get(name) for name in ("target", "questions", "samples", "seed")},
    }
    told |= {f"rule {name}": value for name, value in rules.items()} if isinstance(rules, dict) else {}
    rows = [[name, None if value is None else str(value)] for name, value in told.items()]
    return Section("What was asked", "asked", tables=[Table("", text_columns("What", "How"), rows)])
