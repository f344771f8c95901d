"""The protocol of an evaluation: which questions of each set it asks, how often, and how the policy samples."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from actors.questions import Question, QuestionError
from benchmarks.questions.flashrag import SETS
from benchmarks.questions.sources import load_source

Name = Literal["paper", "full"]
PAPER_ITEMS = 500  # questions that the paper draws from each set (section 4.3); Bamboogle has only 125
PAPER_SEED = 42
SEVEN = "seven"  # stands for the paper's seven sets
BUDGET = ", budget="  # precedes the budget in US dollars in a row's name
TWO_HOP_SHARE = 0.4  # share of two-hop questions among the world's, as in the quickstart


@dataclass(frozen=True, slots=True)
class Pass:
    """One way to ask the policy all questions: a row of the table."""

    row: str
    temperature: float
    samples: int
    budget_usd: float | None = None  # stated in every prompt; None follows the recipe


def passes(name: Name, samples: int | None, budgets_usd: Sequence[float] = ()) -> tuple[Pass, ...]:
    """The passes of a protocol, once for each budget if there are any.

    `paper` samples at temperature 1: `samples` times, or once if None. `full` decodes greedily, and if `samples` is
    given, it also samples so often at temperature 1.
    """
    made: tuple[Pass, ...]
    if name == "paper":
        made = (Pass("policy", 1.0, samples or 1),)
    else:
        made = (Pass("policy", 0.0, 1), *((Pass("policy, sampled", 1.0, samples),) if samples else ()))
    if not budgets_usd:
        return made
    return tuple(
        replace(each, row=f"{each.row}{BUDGET}{usd:g}", budget_usd=usd) for usd in budgets_usd for each in made
    )


def draw(name: Name, questions: Sequence[Question]) -> list[Question]:
    """The questions of a set to ask, in their order: `paper` draws 500 with seed 42, `full` takes all."""
    if name == "full" or len(questions) <= PAPER_ITEMS:
        return list(questions)
    chosen = random.Random(PAPER_SEED).sample(range(len(questions)), PAPER_ITEMS)
    return [questions[place] for place in sorted(chosen)]


def load_questions(
    name: Name, sources: Sequence[str], *, limit: int | None = None, two_hop_share: float = TWO_HOP_SHARE
) -> list[Question]:
    """The questions to ask, source by source, at most `limit` from each; `seven` stands for the paper's sets.

    Raises:
        QuestionError: a source can't be read, lacks a column or holds questions without answers; or an id occurs twice
            in a data set.
    """
    spelt = [set_ for source in sources for set_ in (SETS if source == SEVEN else (source,))]
    if not spelt:
        raise QuestionError("no data set named; give some in --datasets, such as nq or FILE.jsonl")
    found: dict[tuple[str, str], Question] = {}
    for source in spelt:
        drawn = draw(name, load_source(source, limit=None, two_hop_share=two_hop_share))[:limit]
        if not drawn:
            raise QuestionError(f"question source {source!r}: holds no questions")
        for question in drawn:
            if (question.dataset, question.id) in found:
                raise QuestionError(
                    f"question source {source!r}: id {question.id!r} of data set {question.dataset!r} comes twice; "
                    "name each set once, or tell two files apart by FILE:name=SET"
                )
            found[question.dataset, question.id] = question
    return list(found.values())
