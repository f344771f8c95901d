"""The reply table: what every candidate replies to every question, how right that is, and what it costs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from actors.errors import ExplainedError
from actors.pool.cards import ModelCard
from actors.pool.measure import holds_answer
from actors.questions import Question
from benchmarks.evaluation.means import Outcome
from benchmarks.evaluation.measure import EXACT, Measure
from rewards.outcome import normalise_answer

Floats = npt.NDArray[np.float64]
_SHOWN = 3  # of the questions at fault, in a message


class ReplyTableError(ExplainedError, ValueError):
    """A table that can't be used, or two that don't go together; the message names the fault and the remedy."""


@dataclass(frozen=True, slots=True)
class RecordedReply:
    """One candidate's reply to one question."""

    text: str  # empty where it was not recorded
    correct: float  # in [0, 1]: exact match, or a person's judgement or a score where those were recorded
    f1: float  # nan where no accepted answers are known
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    latency_s: float
    refused: bool = False


@dataclass(frozen=True, eq=False)
class ReplyTable:
    """Replies by question (row) and candidate (column); rows and columns are in the order of `questions` and `cards`.

    Raises:
        ReplyTableError: it is empty, a row lacks a reply, an id or a card comes twice, or a number is out of range.
    """

    questions: tuple[Question, ...]
    cards: tuple[ModelCard, ...]
    replies: tuple[tuple[RecordedReply, ...], ...]
    note: str = ""  # what of it is assumed rather than measured, in a sentence
    measure: Measure = EXACT  # that `correct` is by
    correct: Floats = field(init=False, repr=False)
    cost_usd: Floats = field(init=False, repr=False)
    latency_s: Floats = field(init=False, repr=False)

    @property
    def digest(self) -> str:
        """The same for the same questions and replies, in the same order."""
        told = repr((self.questions, self.names, self.replies))
        return hashlib.blake2b(told.encode(), digest_size=6).hexdigest()

    def __post_init__(self) -> None:
        if not self.questions or not self.cards:
            raise ReplyTableError(
                f"{len(self.questions)} questions, {len(self.cards)} candidates; one of each is needed"
            )
        if len(self.replies) != len(self.questions) or {len(row) for row in self.replies} != {len(self.cards)}:
            raise ReplyTableError("every question needs one reply of every candidate; leave out what has gaps")
        for what, names in (("question id", [q.id for q in self.questions]), ("candidate", list(self.names))):
            if twice := sorted(
                {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
            ):
                raise ReplyTableError(f"{what} {twice[0]!r} comes twice; each is needed once")
        for name in ("correct", "cost_usd", "latency_s"):
            object.__setattr__(self, name, self._column(name, most=1.0 if name == "correct" else np.inf))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(card.name for card in self.cards)

    @property
    def queries(self) -> list[str]:
        """The questions' texts."""
        return [question.text for question in self.questions]

    def __len__(self) -> int:
        return len(self.questions)

    def take(self, rows: Sequence[int]) -> ReplyTable:
        """The table of these rows alone."""
        return replace(
            self, questions=tuple(self.questions[i] for i in rows), replies=tuple(self.replies[i] for i in rows)
        )

    def of_pool(self, names: Sequence[str], price_factors: Mapping[str, float]) -> ReplyTable:
        """The table of these candidates alone, the costs of some times a factor.

        Raises:
            ReplyTableError: one of them is not in the table.
        """
        if missing := [name for name in names if name not in self.names]:
            raise ReplyTableError(f"candidate {missing[0]!r} is not in the table; there are {', '.join(self.names)}")
        columns = [self.names.index(name) for name in names]
        factors = [price_factors.get(name, 1.0) for name in names]
        return replace(
            self,
            cards=tuple(self.cards[column] for column in columns),
            replies=tuple(
                tuple(
                    replace(row[column], cost_usd=row[column].cost_usd * factor)
                    for column, factor in zip(columns, factors, strict=True)
                )
                for row in self.replies
            ),
        )

    def outcome(self, row: int, asked: Sequence[int]) -> Outcome:
        """A question answered by asking these columns in turn: all are paid for, the last one's reply is the answer."""
        replies = [self.replies[row][column] for column in asked]
        return Outcome(
            em=replies[-1].correct,
            f1=replies[-1].f1,
            cost_usd=sum(reply.cost_usd for reply in replies),
            asked=tuple(self.cards[column].name for column in asked),
            prompt_tokens=sum(reply.prompt_tokens for reply in replies),
            completion_tokens=sum(reply.completion_tokens for reply in replies),
            latency_s=sum(reply.latency_s for reply in replies),
            refused=tuple(self.cards[column].name for column in asked if self.replies[row][column].refused),
            held=self._held(row, replies[-1]),
        )

    def _held(self, row: int, reply: RecordedReply) -> float:
        answers = self.questions[row].answers
        if not answers or not (reply.text or reply.refused):
            return math.nan
        return float(holds_answer(reply.text, answers))

    def _column(self, name: str, most: float) -> Floats:
        values = np.array([[getattr(reply, name) for reply in row] for row in self.replies], dtype=np.float64)
        wrong = ~((values >= 0) & (values <= most) & np.isfinite(values))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ReplyTableError(
                f"question {self.questions[row].id!r}, candidate {self.names[column]!r}: {name} must lie in "
                f"[0, {most:g}], got {values[row, column]:g}"
            )
        return values


def split(table: ReplyTable, train_share: float, seed: int) -> tuple[ReplyTable, ReplyTable]:
    """Two tables of disjoint questions, the first with about this share of them; drawn by the seed and the question's
    normalised text, so that a question asked twice stays on one side, whatever the order of the rows.

    Raises:
        ReplyTableError: the share leaves one of them empty.
    """
    draws = [_draw(seed, text) for text in map(normalise_question, table.queries)]
    order = sorted(set(draws))
    train = set(order[: round(train_share * len(order))])
    if not 0 < len(train) < len(order):
        raise ReplyTableError(
            f"train_share={train_share:g} of {len(order)} questions leaves none to train or none to test on; "
            "choose one between 0 and 1, or more questions"
        )
    sides = [draw in train for draw in draws]
    return table.take([i for i, side in enumerate(sides) if side]), table.take(
        [i for i, side in enumerate(sides) if not side]
    )


def check_apart(train: ReplyTable, test: ReplyTable) -> None:
    """Check that two tables have the same candidates and no question in common (by normalised text).

    Raises:
        ReplyTableError: they don't go together.
    """
    if train.names != test.names:
        raise ReplyTableError(
            f"trained on {', '.join(train.names)}; to be tested on {', '.join(test.names)}: take the same candidates"
        )
    seen = {normalise_question(text) for text in train.queries}
    common = [text for text in test.queries if normalise_question(text) in seen]
    if common:
        shown = "; ".join(repr(text) for text in common[:_SHOWN])
        raise ReplyTableError(
            f"{len(common)} of {len(test)} test questions are trained on, such as {shown}; split() keeps them apart"
        )


def normalise_question(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces, as exact match compares answers: what makes two questions
    the same to a router. Training sets are compared more strictly (`training_set.normal_text`)."""
    return normalise_answer(text)


def _draw(seed: int, text: str) -> bytes:
    return hashlib.blake2b(f"{seed}|{text}".encode(), digest_size=16).digest()
