"""The questions of an evaluation's report: the good, the bad and the dear picked out, with all that each row made of
them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from actors.questions import Question
from benchmarks.evaluation.item import Item
from benchmarks.evaluation.methods import CHEAPEST_RIGHT, METHODS
from cluster.evaluation.record import EvaluationRecord
from cluster.report.episode_section import parse_episodes, shortened
from cluster.report.page import Part, ShownEpisode

_PER_KIND = 2
QuestionKey = tuple[str, str]  # data set, id


def telling_questions(record: EvaluationRecord, row: str) -> list[ShownEpisode]:
    """Some questions that a row got right after asking somebody, some that it got wrong though a candidate was
    right, and the dearest; none is shown twice.

    Raises:
        RunFolderError: a file of the folder is damaged.
    """
    mine: list[Item] = []
    soluble: set[QuestionKey] = set()
    for item in record.read_items():
        if item.row == row and item.sample == 0:
            mine.append(item)
        elif item.row == CHEAPEST_RIGHT and item.em == 1:
            soluble.add(_place(item))
    picked = _picked(sorted(mine, key=lambda item: item.key), soluble)
    wanted = {_place(item) for _, item in picked}
    others: dict[QuestionKey, list[Item]] = defaultdict(list)
    for item in record.read_items():
        if item.row != row and item.sample == 0 and _place(item) in wanted:
            others[_place(item)].append(item)
    questions, told = record.read_questions(), record.read_episodes()
    return [
        _episode(why, item, questions.get(_place(item)), others[_place(item)], told.get(tuple(map(str, item.key)), ""))
        for why, item in picked
    ]


def _picked(items: Sequence[Item], soluble: set[QuestionKey]) -> list[tuple[str, Item]]:
    right = sorted((i for i in items if i.em == 1 and i.calls), key=lambda item: (-len(item.calls), item.cost_usd))
    wrong = sorted((i for i in items if i.em < 1), key=lambda item: (_place(item) not in soluble, -item.cost_usd))
    dear = sorted((i for i in items if i.cost_usd > 0), key=lambda item: -item.cost_usd)
    found: list[tuple[str, Item]] = []
    seen: set[QuestionKey] = set()
    for why, those in (("Good: right", right), ("Bad: wrong", wrong), ("Dear: of those left, the dearest", dear)):
        fresh = [item for item in those if _place(item) not in seen][:_PER_KIND]
        seen |= {_place(item) for item in fresh}
        avoidable = f", and the {METHODS[CHEAPEST_RIGHT].name} is right"
        found += [(why + (avoidable if item.em < 1 and _place(item) in soluble else ""), item) for item in fresh]
    return found


def _episode(why: str, item: Item, question: Question | None, others: Sequence[Item], report: str) -> ShownEpisode:
    facts = [f"id: {item.question}", f"row: {item.row}"]
    if question is not None:
        facts.append(f"accepted answers: {', '.join(question.answers)}")
    if item.answer is not None or item.stop:
        facts.append(f"answer: {item.answer if item.answer is not None else '(none)'}")
    facts.append(_told(item))
    parts: list[Part] = []
    if whole := next(parse_episodes(report, 0), None):
        parts += [Part(part.title, shortened(part.text), part.facts, part.folded) for part in whole.parts]
    elif item.calls:
        parts.append(
            Part("Calls, in their order", "\n".join(f"{model or '(nobody)'}: {how}" for model, how in item.calls))
        )
    if others:
        lines = "\n".join(f"{other.row}: {_told(other)}" for other in others)
        parts.append(Part("What the other rows made of it", lines, folded=True))
    title = question.text if question is not None else item.question
    return ShownEpisode(title, f"{why} · {item.dataset}", facts, parts)


def _told(item: Item) -> str:
    right = "right" if item.em == 1 else "wrong" if item.em == 0 else f"exact match {item.em:.2f}"
    f1 = f", F1 {item.f1:.2f}" if item.f1 is not None and item.f1 != item.em else ""
    asked = ", ".join(model or "nobody" for model, _ in item.calls) or "nobody"
    own = f" and {item.policy_usd:.6f} of its own" if item.policy_usd else ""
    return (
        f"{right}{f1}; asked {asked}; {item.cost_usd:.6f} USD{own}; {item.prompt_tokens} + {item.completion_tokens} "
        f"tokens of candidates; {item.latency_s:.2f} s{f'; {item.stop}' if item.stop else ''}"
    )


def _place(item: Item) -> QuestionKey:
    return item.dataset, item.question
