"""The tables of a run's report: evaluations, their course, spending by candidate, and what was trained."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from actors.ledger.entry import LedgerError
from benchmarks.evaluation.collapse import Constant, call_entropy, collapse_alarm
from benchmarks.evaluation.formats import bounds, percent
from benchmarks.evaluation.means import Evaluation
from benchmarks.evaluation.methods import BEST_CONSTANT_HINDSIGHT, METHODS, OF_RUN, result_name
from benchmarks.evaluation.pool_fingerprint import fingerprint
from benchmarks.evaluation.statistics import share_interval
from benchmarks.evaluation.tables import Column, Table
from cluster.episodes.candidates import RunCards
from cluster.runs.record import RunRecord, row_evaluation, setting
from cluster.runs.run_id import FILE_NAME as RUN_ID

logger = logging.getLogger(__name__)

_EVALUATION = (
    Column("Who", numeric=False),
    Column("Exact match", "%"),
    Column("95 % interval", "%"),
    Column("F1", "%"),
    Column("Price", "USD per 1k"),
    Column("Calls", "per question"),
    Column("Models", "effective number"),
    Column("Questions"),
)


def usd(amount: float) -> str:
    """Dollars to the cent, small amounts to three digits."""
    if amount == 0 or amount >= 10:
        return f"${amount:,.2f}"
    return f"${amount:.2f}" if amount >= 1 else f"${amount:.3g}"


def evaluation_table(title: str, found: Mapping[str, Evaluation], steps: Mapping[str, Any]) -> Table:
    """A row for each evaluation, in the order of the summary; `steps` says after which step the policy's were made."""
    order = [name for name in OF_RUN if name in found] + [name for name in found if name not in OF_RUN]
    rows = []
    for name in order:
        each = found[name]
        words = _words(name)
        if name == BEST_CONSTANT_HINDSIGHT and len(each.call_share) == 1:
            words += f": {next(iter(each.call_share))}"
        if steps.get(name) is not None:
            words += f" (step {steps[name]})"
        rows.append(
            (
                words,
                percent(each.em),
                bounds(share_interval(each.em, each.questions)),
                percent(each.f1),
                _fixed(each.cost_usd_per_1k_questions, 4),
                _fixed(each.calls_per_question, 2),
                _fixed(math.exp(call_entropy(each.call_share)) if each.call_share else 0.0, 1),
                f"{each.questions:,}" if each.questions else None,
            )
        )
    highlight = frozenset([order.index("after")]) if "after" in order else frozenset[int]()
    note = ""
    if void := {_words(name): found[name].void for name in order if found[name].void}:
        told = ", ".join(f"{count:,} ({words})" for words, count in void.items())
        note = f"Voided by infrastructure, and in no number, episodes: {told}."
    return Table(title, _EVALUATION, rows, note, highlight)


def course_table(record: RunRecord, constant: Constant | None, candidates: int | None) -> Table | None:
    """The evaluations in the course of training, with the collapse watch; None where there are no more than two."""
    if len(record.evaluated) <= 2:
        return None
    columns = (
        Column("Step"), Column("Exact match", "%"), Column("Price", "USD per 1k"),
        Column("Calls", "per question"), Column("Models", "effective number"),
        Column("Most asked", numeric=False), Column("Its calls", "%"), Column("Collapse watch", numeric=False),
    )  # fmt: skip
    rows = []
    for row in record.evaluated:
        each = row_evaluation(row, record.held_out)
        top = max(each.call_share, key=each.call_share.__getitem__, default=None)
        version = row.get("eval/version", row["step"])
        alarm = collapse_alarm(each, constant if each.questions else None, candidates=candidates)
        rows.append(
            (
                f"{version}",
                percent(each.em),
                _fixed(each.cost_usd_per_1k_questions, 4),
                _fixed(each.calls_per_question, 2),
                _fixed(math.exp(call_entropy(each.call_share)) if each.call_share else 0.0, 1),
                top,
                percent(each.call_share[top]) if top is not None else None,
                ("alarm" if alarm else "well") if version else None,  # untrained, it has nothing to lose
            )
        )
    against = "none, for no constant choice is known"
    if constant is not None:
        method = METHODS[constant.method]
        against = f"the {method.name}, which {method.meaning}: {constant.model} ({percent(constant.em)} %)"
    return Table("In the course of training", columns, rows, f"The watch compares with {against}.")


def candidates_table(record: RunRecord, cards: RunCards) -> Table:
    """What each candidate costs, was paid and is asked, the dearest first; the evaluation with those that training
    never saw tells how often they are asked."""
    spent, source = _spent(record)
    before, after, unseen = (record.evaluations.get(name) for name in ("before", "after", "after_unseen"))
    trained = record.trained[-1] if record.trained else {}
    total = math.fsum(spent.values())
    names = sorted({*cards.all, *spent}, key=lambda name: (name in cards.unseen, -spent.get(name, 0.0), name))

    def asked(found: Evaluation | None, name: str) -> str | None:
        return percent(found.call_share.get(name, 0.0)) if found else None

    rows = [
        (
            name,
            _fixed(cards.all[name].price_in_usd_per_mtok, 2) if name in cards.all else None,
            _fixed(cards.all[name].price_out_usd_per_mtok, 2) if name in cards.all else None,
            _fixed(spent.get(name, 0.0), 4),
            percent(spent.get(name, 0.0) / total) if total else None,
            None if name in cards.unseen else asked(before, name),
            percent(trained.get(f"rollout/call_share/{name}") or 0.0) if trained and name not in cards.unseen else None,
            asked(unseen, name) if name in cards.unseen else asked(after, name),
        )
        for name in names
    ]
    rows.append(("All", None, None, _fixed(total, 4), percent(1.0) if total else None, None, None, None))
    columns = (
        Column("Candidate", numeric=False), Column("Price in", "USD per Mtok"), Column("Price out", "USD per Mtok"),
        Column("Spent", "USD"), Column("Share", "% of dollars"), Column("Calls before", "held-out, %"),
        Column("Calls in training", "last batch, %"), Column("Calls after", "held-out, %"),
    )  # fmt: skip
    pool = f" The candidates of training are pool {fingerprint(list(cards.seen.values()))}." if cards.seen else ""
    if cards.unseen:
        source += " The last were never seen in training; their calls are those of the evaluation with them."
    return Table("By candidate", columns, rows, f"{source} {cards.note}{pool}", frozenset([len(rows) - 1]))


def settings_table(record: RunRecord, cards: RunCards) -> Table:
    """The settings that say what was trained, on what, against whom."""

    def told(path: str) -> str | None:
        value = setting(record.config, path)
        return ", ".join(map(str, value)) if isinstance(value, list) else None if value is None else str(value)

    def pair(words: str, *paths: str) -> tuple[str, str | None]:
        known = [value for path in paths if (value := told(path)) is not None]
        return words, " · ".join(known) or None

    steps, groups, size = (told(f"run.{name}") for name in ("steps", "groups_per_step", "group_size"))
    rows = [
        ("Recipe", f"{record.recipe or 'unknown'} (router-r1 {record.command})"),
        pair("Policy begins as", "policy.checkpoint"),
        ("Steps × groups × episodes", f"{steps} × {groups} × {size}"),
        pair("Seed", "run.seed"),
        pair("Questions to train on", "data.train"),
        pair("Questions held out", "data.eval"),
        ("Held-out questions asked", f"{record.held_out:,}" if record.held_out else None),
        pair("Candidates served by", "candidates.serve", "candidates.pool.cards", "candidates.replies"),
        ("Candidates", _candidates(record, cards)),
        pair("Rewards: preset · metric", "rewards.preset", "rewards.metric"),
        pair("Weight of cost (α)", "rewards.alpha"),
        pair("Estimator · loss", "learner.estimator", "learner.loss"),
        pair("Learning rate · schedule", "learner.optimizer.lr", "learner.optimizer.schedule"),
        pair("KL weight", "learner.kl_coef"),
        pair("Most staleness", "run.max_staleness"),
        pair("Learner: device · dtype · ranks", "learner.device", "learner.dtype", "learner.ranks"),
        pair("Engines: device · number", "engine.device", "placement.rollout_workers"),
    ]
    return Table("", (Column("What", numeric=False), Column("Setting", numeric=False)), rows)


def _candidates(record: RunRecord, cards: RunCards) -> str:
    seen = cards.seen or _paid(record)
    return f"{len(seen):,}" + (f", and {len(cards.unseen):,} never seen in training" if cards.unseen else "")


def _words(name: str) -> str:
    words = result_name(name)
    return f"{words[0].upper()}{words[1:]}"


def _fixed(value: float, digits: int) -> str | None:
    return None if math.isnan(value) else f"{value:,.{digits}f}"


def _paid(record: RunRecord) -> dict[str, float]:
    """USD by candidate as the last row of metrics has it."""
    prefix = "cost/usd/"
    told = [row for row in record.rows if any(key.startswith(prefix) for key in row)]
    return (
        {key.removeprefix(prefix): float(usd) for key, usd in told[-1].items() if key.startswith(prefix)}
        if told
        else {}
    )


def _spent(record: RunRecord) -> tuple[dict[str, float], str]:
    """USD by candidate, and where that is from: the run's ledger where it is in the folder, else the metrics."""
    paid = _paid(record)
    if record.folder.ledger_file.is_file() and (record.folder.path / RUN_ID).is_file():  # an id is not made here
        from actors.ledger.database import existing_ledger
        from actors.ledger.report import spend

        try:
            with existing_ledger(record.folder.path) as connection:
                found = {row["model"]: row["cost_usd"] for row in spend(connection, ["model"], record.folder.run_id)}
        except LedgerError as error:
            logger.warning("spending is taken from the metrics, for the ledger can't be read: %s", error)
        else:
            if found:
                return dict.fromkeys(paid, 0.0) | found, "Dollars are those of the run's calls in ledger.sqlite."
    return paid, "Dollars are those of the last step's metrics; what was spent after it is not in them."
