"""The router: decides for each question which candidates are asked; the interface of all baselines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from actors.errors import ExplainedError
from benchmarks.evaluation.means import Outcome
from benchmarks.evaluation.reply_table import Floats, ReplyTable

AskingOrder = tuple[int, ...]  # columns of the table in the order of asking; the last one's reply is the answer
HASHING = "hashing"  # the question embedding that needs no model
_FEWEST = 10  # training questions of a router that learns from them
_TIE = 1e-9  # of a normalised cost: enough to choose the cheaper of two that are alike


class RouterError(ExplainedError, ValueError):
    """A router that can't be made or trained as told; the message names the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What every router is made with. All that learn maximise the same utility: `correct - lambda_ * cost / scale`,
    where the scale is the mean cost of the dearest candidate over the training questions (`cost_scale`)."""

    lambda_: float = 0.0
    seed: int = 0
    embedding: str = HASHING  # or the name or path of a sentence-transformers model

    def __post_init__(self) -> None:
        if not 0 <= self.lambda_ < np.inf:
            raise RouterError(f"lambda={self.lambda_:g} must be at least 0 and finite; 0 looks at quality alone")


class Router(ABC):
    """Learns from one table, decides over another with the same candidates.

    Of the table that it decides over, a router reads the questions' texts and the replies of those that it asked.
    Only the cheapest right candidate (`fixed.CheapestRight`) reads whether they are right.
    """

    learns_lambda: ClassVar[bool] = False  # λ enters the training; otherwise `lambda_` may be changed after it

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.lambda_ = terms.lambda_

    @abstractmethod
    def fit(self, train: ReplyTable) -> None:
        """Learn from a table.

        Raises:
            RouterError: the table lacks what the router needs.
        """

    @abstractmethod
    def route(self, table: ReplyTable) -> list[AskingOrder]:
        """Who is asked, for every question of the table."""

    def running(self) -> AbstractContextManager[None]:
        """What the training needs to run; entered once for several trainings, it need not be started for each."""
        return nullcontext()

    def chosen(self) -> str:
        """What it learnt or chose, in a few words; empty where there is nothing to tell."""
        return ""

    def play(self, table: ReplyTable) -> list[Outcome]:
        """What comes of it, for every question of the table."""
        return [table.outcome(row, asked) for row, asked in enumerate(self.route(table))]


def cost_scale(train: ReplyTable) -> float:
    """USD that the dearest candidate costs a question, on the mean; 1 where all are free."""
    return float(train.cost_usd.mean(axis=0).max()) or 1.0


def check_enough(train: ReplyTable) -> None:
    """Check that there is something to learn from and to cross-validate on.

    Raises:
        RouterError: there are fewer than ten training questions.
    """
    if len(train) < _FEWEST:
        raise RouterError(f"needs at least {_FEWEST} training questions, got {len(train)}; give more")


def utilities(train: ReplyTable, lambda_: float) -> Floats:
    """What each reply of the table is worth: `correct - lambda_ * cost / cost_scale`."""
    values: Floats = train.correct - lambda_ * train.cost_usd / cost_scale(train)
    return values


def best_columns(expected: Floats, costs: Floats) -> list[AskingOrder]:
    """The column of the highest expectation in each row, the cheaper one of two alike."""
    return [(int(column),) for column in (expected - _TIE * costs).argmax(axis=1)]


def always(column: int, table: ReplyTable) -> list[AskingOrder]:
    """The same column for every question."""
    return [(column,)] * len(table)


def column_of(name: str, names: Sequence[str]) -> int:
    """The column of a candidate.

    Raises:
        RouterError: there is none of that name.
    """
    if name not in names:
        raise RouterError(f"candidate {name!r} is not in the table; there are {', '.join(names)}")
    return list(names).index(name)
