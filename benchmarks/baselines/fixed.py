"""Fixed routers, which ignore the question; and the cheapest right candidate, which knows the answers."""

from __future__ import annotations

import random
import re
from abc import abstractmethod

import numpy as np

from actors.pool.cards import ModelCard
from benchmarks.baselines.router import AskingOrder, Router, RouterError, Terms, always, column_of, utilities
from benchmarks.evaluation.reply_table import ReplyTable

# Matches `70B`, `8x22B` and `1.5b`; not `v0.3`, nor the `2b` in another word.
_SIZE = re.compile(r"(?<![\w.])(?:(\d+)x)?(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)


class Alone(Router):
    """Always asks one candidate, which is given by name."""

    def __init__(self, terms: Terms, candidate: str) -> None:
        super().__init__(terms)
        self.candidate = candidate

    def fit(self, train: ReplyTable) -> None:
        column_of(self.candidate, train.names)

    def route(self, table: ReplyTable) -> list[AskingOrder]:
        return always(column_of(self.candidate, table.names), table)


class Constant(Router):
    """Always asks one candidate, which a rule picks from the training table."""

    def fit(self, train: ReplyTable) -> None:
        self._column = self.pick(train)
        self._name = train.names[self._column]

    def chosen(self) -> str:
        return self._name

    @abstractmethod
    def pick(self, train: ReplyTable) -> int:
        """The column of the candidate."""

    def route(self, table: ReplyTable) -> list[AskingOrder]:
        return always(self._column, table)


class Cheapest(Constant):
    """The candidate with the lowest mean cost per question."""

    def pick(self, train: ReplyTable) -> int:
        return int(train.cost_usd.mean(axis=0).argmin())


class BestConstantTraining(Constant):
    """The candidate that is right most often in the training table, whatever it costs."""

    def pick(self, train: ReplyTable) -> int:
        return _first_cheapest(train.correct.mean(axis=0), train)


class BestUtility(Constant):
    """The candidate with the highest mean utility at λ: the best choice of a router that ignores the question."""

    learns_lambda = True

    def pick(self, train: ReplyTable) -> int:
        return _first_cheapest(utilities(train, self.lambda_).mean(axis=0), train)


class Largest(Constant):
    """The candidate with the most parameters, according to its card's name, model or descriptor."""

    def pick(self, train: ReplyTable) -> int:
        sizes = [billions(card) for card in train.cards]
        if unknown := [card.name for card, size in zip(train.cards, sizes, strict=True) if size is None]:
            raise RouterError(
                f"{len(unknown)} of {len(sizes)} cards tell no size, such as {unknown[0]}'s; put it in the descriptor, "
                "such as '70B'"
            )
        return int(np.argmax([size or 0.0 for size in sizes]))


class Uniform(Router):
    """A random candidate; seed and question id determine the draw."""

    def fit(self, train: ReplyTable) -> None:
        """There is nothing to learn."""

    def route(self, table: ReplyTable) -> list[AskingOrder]:
        columns = range(len(table.cards))
        return [(random.Random(f"random-{self.terms.seed}-{q.id}").choice(columns),) for q in table.questions]


class CheapestRight(Router):
    """The cheapest of the candidates with the best reply; if no reply is right, the cheapest of all.

    No router that takes one reply unchanged can be better.
    """

    def fit(self, train: ReplyTable) -> None:
        """There is nothing to learn."""

    def route(self, table: ReplyTable) -> list[AskingOrder]:
        best = table.correct.max(axis=1, keepdims=True)
        costs = np.where(table.correct == best, table.cost_usd, np.inf)
        return [(int(column),) for column in costs.argmin(axis=1)]


def billions(card: ModelCard) -> float | None:
    """Billions of parameters, read from a card's name, model or descriptor; None if none of them states the size."""
    for text in (card.name, card.model, card.descriptor):
        if found := _SIZE.search(text):
            return float(found[1] or 1) * float(found[2])
    return None


def _first_cheapest(values: np.ndarray, train: ReplyTable) -> int:
    """The column of the highest value; of equal values, the cheapest on the mean."""
    return int(np.lexsort((train.cost_usd.mean(axis=0), -values))[0])
