"""The router, the interface of all baselines: it decides for each question which candidates to ask."""

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
_FEWEST = 10  # training questions that a router needs to learn
_TIE = 1e-9  # weight of the normalised cost that decides between equal expectations


class RouterError(ExplainedError, ValueError):
    """A router can't be made or trained; the message names the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Settings of every router.

    All routers that learn maximise the same utility: `correct - lambda_ * cost / cost_scale`, where `cost_scale` is the
    mean cost of the most expensive candidate on the training questions.
    """

    lambda_: float = 0.0
    seed: int = 0
    embedding: str = HASHING  # or the name or path of a sentence-transformers model

    def __post_init__(self) -> None:
        if not 0 <= self.lambda_ < np.inf:
            raise RouterError(f"lambda={self.lambda_:g} must be at least 0 and finite; 0 looks at quality alone")


class Router(ABC):
    """Learns from one table, and decides on another with the same candidates.

    In the table that it decides on, a router reads only the questions' texts and the replies of the candidates that it
    asks. Only the cheapest right candidate (`fixed.CheapestRight`) reads whether replies are right.
    """

    learns_lambda: ClassVar[bool] = False  # training uses λ; otherwise `lambda_` may be changed after training

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
        """The candidates to ask for every question of the table."""

    def running(self) -> AbstractContextManager[None]:
        """A context that training needs, such as Ray; a caller enters it once for several trainings."""
        return nullcontext()

    def chosen(self) -> str:
        """The result of the training in a few words, such as the chosen candidate; may be empty."""
        return ""

    def play(self, table: ReplyTable) -> list[Outcome]:
        """The outcome of every question of the table."""
        return [table.outcome(row, asked) for row, asked in enumerate(self.route(table))]


def cost_scale(train: ReplyTable) -> float:
    """Mean cost per question of the most expensive candidate in USD; 1 if all are free."""
    return float(train.cost_usd.mean(axis=0).max()) or 1.0


def check_enough(train: ReplyTable) -> None:
    """Check that there are enough questions to learn from and to cross-validate on.

    Raises:
        RouterError: there are fewer than ten training questions.
    """
    if len(train) < _FEWEST:
        raise RouterError(f"needs at least {_FEWEST} training questions, got {len(train)}; give more")


def utilities(train: ReplyTable, lambda_: float) -> Floats:
    """The utility of each reply, `[N, candidates]`: `correct - lambda_ * cost / cost_scale`."""
    values: Floats = train.correct - lambda_ * train.cost_usd / cost_scale(train)
    return values


def best_columns(expected: Floats, costs: Floats) -> list[AskingOrder]:
    """For each row of `expected` `[N, candidates]`, the column of the highest value; of equal ones the cheapest."""
    return [(int(column),) for column in (expected - _TIE * costs).argmax(axis=1)]


def always(column: int, table: ReplyTable) -> list[AskingOrder]:
    """The same column for every question."""
    return [(column,)] * len(table)


def column_of(name: str, names: Sequence[str]) -> int:
    """The column of a candidate.

    Raises:
        RouterError: there is no candidate with this name.
    """
    if name not in names:
        raise RouterError(f"candidate {name!r} is not in the table; there are {', '.join(names)}")
    return list(names).index(name)
