"""Routers that estimate how likely each candidate is right: nearest neighbours and a multi-layer perceptron."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import numpy as np

from benchmarks.baselines.embedding import Embedder, Embeddings, widen
from benchmarks.baselines.router import AskingOrder, Router, best_columns, check_enough, cost_scale
from benchmarks.evaluation.reply_table import Floats, ReplyTable

_FOLDS = 5


class ExpectedRouter(Router):
    """Asks the candidate of the highest `expected correctness - λ * expected cost`.

    The cost expected of a candidate is its mean over the training questions.
    """

    def fit(self, train: ReplyTable) -> None:
        check_enough(train)
        self._costs = train.cost_usd.mean(axis=0) / cost_scale(train)
        self._embedder = Embedder(self.terms)
        self.learn(self._embedder.fit(train.queries), train.correct)

    def route(self, table: ReplyTable) -> list[AskingOrder]:
        expected = self.expect(self._embedder.embed(table.queries))
        return best_columns(expected - self.lambda_ * self._costs, self._costs)

    @abstractmethod
    def learn(self, questions: Embeddings, correct: Floats) -> None:
        """Learn how right each candidate (column) is on questions."""

    @abstractmethod
    def expect(self, questions: Embeddings) -> Floats:
        """How right each candidate is expected to be on each question."""


class NearestNeighbours(ExpectedRouter):
    """Expects of a candidate the mean over the most similar training questions (cosine); how many of them is chosen
    by cross-validation."""

    CHOICES = (5, 10, 20, 40, 80, 160)

    def learn(self, questions: Embeddings, correct: Floats) -> None:
        from sklearn.model_selection import GridSearchCV, KFold
        from sklearn.neighbors import KNeighborsRegressor

        folds = KFold(_FOLDS, shuffle=True, random_state=self.terms.seed)
        fewest = len(questions) - -(-len(questions) // _FOLDS)  # that a fold leaves to look among
        choices = [k for k in self.CHOICES if k <= fewest]
        search = GridSearchCV(
            KNeighborsRegressor(metric="cosine"), {"n_neighbors": choices}, scoring="neg_mean_squared_error", cv=folds
        )
        self._model: Any = search.fit(questions, correct)

    def chosen(self) -> str:
        return f"k={self._model.best_params_['n_neighbors']}"

    def expect(self, questions: Embeddings) -> Floats:
        return np.asarray(self._model.predict(questions), dtype=np.float64).reshape(len(questions), -1)


class Perceptron(ExpectedRouter):
    """Expects what a multi-layer perceptron of one hidden layer gives; its weight decay is chosen by
    cross-validation, for a few hundred questions say little and the unrestrained learn them by heart."""

    CHOICES = (3.0, 10.0, 30.0, 100.0)

    def learn(self, questions: Embeddings, correct: Floats) -> None:
        from sklearn.model_selection import GridSearchCV, KFold
        from sklearn.neural_network import MLPRegressor

        network = MLPRegressor(
            hidden_layer_sizes=(64,), learning_rate_init=0.001, max_iter=100, random_state=self.terms.seed
        )
        folds = KFold(3, shuffle=True, random_state=self.terms.seed)
        search = GridSearchCV(network, {"alpha": self.CHOICES}, scoring="neg_mean_squared_error", cv=folds)
        with warnings.catch_warnings():
            from sklearn.exceptions import ConvergenceWarning

            warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is meant: it restrains, too
            self._model: Any = search.fit(widen(questions), correct if correct.shape[1] > 1 else correct.ravel())

    def chosen(self) -> str:
        return f"weight decay {self._model.best_params_['alpha']:g}"

    def expect(self, questions: Embeddings) -> Floats:
        predicted = self._model.predict(widen(questions))
        return np.asarray(predicted, dtype=np.float64).reshape(len(questions), -1)
