"""The findings of a run: its result in sentences and figures, and what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.evaluation.collapse import Constant, collapse_alarm, constant_of_cards, measured_constant
from benchmarks.evaluation.formats import percent
from benchmarks.evaluation.means import Evaluation
from benchmarks.evaluation.methods import (
    AFTER,
    BEFORE,
    BEST_CONSTANT_HINDSIGHT,
    METHODS,
    MOST_COMPETENT,
    OF_RUN,
    RANDOM,
    UNSEEN,
)
from cluster.episodes.candidates import RunCards
from cluster.report.run_tables import usd
from cluster.runs.record import RunRecord, setting

_VOID_ALARM = 0.05  # of the held-out episodes


def best_constant(record: RunRecord, cards: RunCards) -> Constant | None:
    """The best constant policy: as the run measured it, else by the cards' accuracy on sets of the same name."""
    single = record.evaluations.get(BEST_CONSTANT_HINDSIGHT)
    if single is not None and len(single.call_share) == 1:
        return measured_constant(single)
    sets = setting(record.config, "data.eval")
    names = [str(name).partition("/")[0] for name in sets] if isinstance(sets, list) else []
    return constant_of_cards(list(cards.seen.values()), dict.fromkeys(names, 1))


def status(record: RunRecord) -> str:
    """How far the run is, in a line."""
    planned = record.summary.get("steps") or setting(record.config, "run.steps")
    took = f" · {_duration(record.seconds)}" if record.seconds is not None else ""
    recipe = f" · recipe {record.recipe}" if record.recipe else ""
    state = {"finished": "Finished", "going on": "Still going on", "stopped": "Stopped before its end"}[record.state]
    return f"{state} · step {record.step} of {planned}{took}{recipe}"


def result(record: RunRecord) -> list[str]:
    """The result in two sentences: how often it is right, and at what price."""
    found = record.evaluations
    before, after = found.get("before"), found.get("after")
    spent = f" The run spent {usd(record.usd)} on candidates." if record.usd is not None else ""
    if after is None or record.step == 0:
        known = f" Before training it answers {_right(before)} %{_of_questions(before)} exactly." if before else ""
        return [
            f"Nothing is known yet of what training achieves: no evaluation was made after a step of it.{known}{spent}"
        ]
    step = record.summary.get("after_step", record.step) if record.summary else record.evaluated[-1]["step"]
    quality = f"After {step} steps the policy answers {_right(after)} %{_of_questions(after)} exactly"
    price = f"The candidates' price of 1,000 questions is {_price(after)}"
    others = [
        (("" if key == RANDOM else "the ") + METHODS[key].name + _named(key, found[key]), found[key])
        for key in OF_RUN
        if key in found and key != AFTER
    ]
    if others:
        quality += "; " + _listed([f"{name} {_right(each)} %" for name, each in others])
        price += "; " + _listed([f"{name} {_price(each)}" for name, each in others])
    return [f"{quality}.", f"{price}.{spent}"]


def figures(record: RunRecord) -> list[tuple[str, str]]:
    """The few numbers to see first, by their names."""
    found = record.evaluations
    ideal, constant = METHODS[MOST_COMPETENT].name, METHODS[BEST_CONSTANT_HINDSIGHT].name
    names = ((BEFORE, "Exact match before"), (AFTER, "Exact match after"), (MOST_COMPETENT, ideal.capitalize()),
             (BEST_CONSTANT_HINDSIGHT, constant.capitalize()))  # fmt: skip
    figures = [(words, f"{_right(found[name])} %") for name, words in names if name in found]
    if {AFTER, MOST_COMPETENT, BEST_CONSTANT_HINDSIGHT} <= found.keys():
        gap = found[MOST_COMPETENT].em - found[BEST_CONSTANT_HINDSIGHT].em
        if gap > 0:
            closed = (found[AFTER].em - found[BEST_CONSTANT_HINDSIGHT].em) / gap
            figures.append((f"Gap from {constant} to {ideal} closed", f"{100 * closed:.0f} %"))
    if "after" in found:
        figures.append(("Price of 1,000 questions", _price(found["after"])))
    if record.usd is not None:
        figures.append(("Spent by the run", usd(record.usd)))
    return figures


def alarms(record: RunRecord, cards: RunCards, constant: Constant | None) -> list[str]:
    """What is wrong, in sentences: a policy that has ceased to route, voided episodes, skipped batches."""
    said = []
    after, unseen = record.evaluations.get("after"), record.evaluations.get("after_unseen")
    if after is not None and record.step > 0:
        said.append(collapse_alarm(after, constant if after.questions else None, candidates=len(cards.seen)))
        if (share := after.void / max(after.void + after.questions, 1)) > _VOID_ALARM:
            said.append(f"{share:.0%} of the held-out episodes were voided by infrastructure, and are in no number.")
    elif record.trained:  # nothing was evaluated yet: the last batch tells at least of its calls
        said.append(collapse_alarm(_batch(record)))
    single = record.evaluations.get(BEST_CONSTANT_HINDSIGHT + UNSEEN)
    if unseen is not None and single is not None and len(single.call_share) == 1:
        alarm = collapse_alarm(unseen, measured_constant(single))
        said.append(alarm and f"With candidates never seen in training: {alarm}")
    if bad := sum(row.get("learner/bad_steps") or 0 for row in record.rows):
        said.append(f"Batches skipped, for a reward, loss or gradient was not finite: {bad:.0f}.")
    return [each for each in said if each]


def _batch(record: RunRecord) -> Evaluation:
    prefix, row = "rollout/call_share/", record.trained[-1]
    shares = {key.removeprefix(prefix): share for key, share in row.items() if key.startswith(prefix)}
    return Evaluation(0, math.nan, math.nan, math.nan, math.nan, shares)


def _right(each: Evaluation) -> str:
    return percent(each.em) or "an unknown share, in"


def _price(each: Evaluation) -> str:
    return "unknown" if math.isnan(each.cost_usd_per_1k_questions) else usd(each.cost_usd_per_1k_questions)


def _of_questions(each: Evaluation) -> str:
    return f" of {each.questions:,} held-out questions" if each.questions else " of the held-out questions"


def _named(key: str, each: Evaluation) -> str:
    """The candidate that a constant choice is of."""
    return f" ({next(iter(each.call_share))})" if key == BEST_CONSTANT_HINDSIGHT and len(each.call_share) == 1 else ""


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds / 3600:.1f} hours"
