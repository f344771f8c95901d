"""Fixed routers: they do not look at the question, except for the cheapest right candidate, which knows the answers."""

from __future__ import annotations

import random
import re
from abc import abstractmethod

import numpy as np

from actors.pool.cards import ModelCard
from benchmarks.baselines.router import AskingOrder, Router, RouterError, Terms, always, column_of, utilities
from benchmarks.evaluation.reply_table import ReplyTable

# `70B`, `8x22B`, `1.5b`; not the `v0.3` or `2b` of another word
_SIZE = re.compile(r"(?<![\w.])(?:(\d+)x)?(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)


class Alone(Router):
    """One candidate, always."""

    def __init__(self, terms: Terms, candidate: str) -> None:
        super().__init__(terms)
        self.candidate = candidate

    def fit(self, train: ReplyTable) -> None:
        column_of(self.candidate, train.names)

    def route(self, table: ReplyTable) -> list[AskingOrder]:
        return always(column_of(self.candidate, table.names), table)


class Constant(Router):
    """The one candidate that a rule picks from the training table."""

    def fit(self, train: ReplyTable) -> None:
        self._column = self.pick(train)
        self._name = train.names[self._column]

    def chosen(self) -> str:
        return self._name

    @abstractmethod
    def pick(self, train: ReplyTable) -> int:
        """The column of that candidate."""

    def route(self, table: ReplyTable) -> list[AskingOrder]:
        return always(self._column, table)


class Cheapest(Constant):
    """The candidate of the lowest mean cost per question."""

    def pick(self, train: ReplyTable) -> int:
        return int(train.cost_usd.mean(axis=0).argmin())


class BestConstantTraining(Constant):
    """The candidate that is right most often in the training table, whatever it costs."""

    def pick(self, train: ReplyTable) -> int:
        return _first_cheapest(train.correct.mean(axis=0), train)


class BestUtility(Constant):
    """The candidate of the highest mean utility at λ: what a router that has learnt nothing of questions should do."""

    learns_lambda = True

    def pick(self, train: ReplyTable) -> int:
        return _first_cheapest(utilities(train, self.lambda_).mean(axis=0), train)


class Largest(Constant):
    """The candidate of the most parameters, as its card's name, model or descriptor tells."""

    def pick(self, train: ReplyTable) -> int:
        sizes = [billions(card) for card in train.cards]
        if unknown := [card.name for card, size in zip(train.cards, sizes, strict=True) if size is None]:
            raise RouterError(
                f"{len(unknown)} of {len(sizes)} cards tell no size, such as {unknown[0]}'s; say it in the descriptor, "
                "such as '70B'"
            )
        return int(np.argmax([size or 0.0 for size in sizes]))


class Uniform(Router):
    """Anyone, drawn by the seed and the question's id."""

    def fit(self, train: ReplyTable) -> None:
        """There is nothing to learn."""

    def route(self, table: ReplyTable) -> list[AskingOrder]:
        columns = range(len(table.cards))
        return [(random.Random(f"random-{self.terms.seed}-{q.id}").choice(columns),) for q in table.questions]


class CheapestRight(Router):
    """The cheapest of those that answer best; the cheapest of all where none is right. No router can be better that
    takes one reply as it is."""

    def fit(self, train: ReplyTable) -> None:
        """There is nothing to learn."""

    def route(self, table: ReplyTable) -> list[AskingOrder]:
        best = table.correct.max(axis=1, keepdims=True)
        costs = np.where(table.correct == best, table.cost_usd, np.inf)
        return [(int(column),) for column in costs.argmin(axis=1)]


def billions(card: ModelCard) -> float | None:
    """Billions of parameters in all, read from a card's name, model or descriptor; None where none of them tells."""
    for text in (card.name, card.model, card.descriptor):
        if found := _SIZE.search(text):
            return float(found[1] or 1) * float(found[2])
    return None


def _first_cheapest(values: np.ndarray, train: ReplyTable) -> int:
    """The column of the highest value, the cheaper one of two alike."""
    return int(np.lexsort((train.cost_usd.mean(axis=0), -values))[0])
