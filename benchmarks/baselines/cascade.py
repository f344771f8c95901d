"""The cascade: asks a cheap candidate first, and a dearer one where a scorer doubts the reply."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.baselines.router import AskingOrder, Router, check_enough, cost_scale
from benchmarks.evaluation.reply_table import Floats, ReplyTable

_LONGEST = 3  # candidates of a cascade, as in the paper
_SHORTLIST = 8  # candidates that cascades are made of, where there are more: the best on the mean and the cheapest
_LEVELS = 9  # thresholds tried per candidate: quantiles of its scores
_FOLDS = 5
_WORD = re.compile(r"\w+")
_STRENGTHS = (0.01, 0.1, 1.0)  # of the scorer's regularisation, inverse


@dataclass(frozen=True, slots=True)
class _Plan:
    """Columns in the order of asking; after each but the last, the score from which its reply is taken."""

    columns: tuple[int, ...]
    thresholds: tuple[float, ...]


class Cascade(Router):
    """FrugalGPT's cascade (Chen et al., arXiv 2305.05176, section 3): candidates are asked in turn, from cheap to
    dear, until a scorer g(question, reply) reaches the candidate's threshold; every one asked is paid for.

    The paper fine-tunes DistilBERT for the scorer; here it is a logistic regression per candidate on hashed words of
    question and reply. Who is in the cascade, and the thresholds, are those of the highest mean utility on the
    training questions, with scores that each question was left out for. Candidates whose replies were not recorded
    are judged by the question alone.
    """

    def fit(self, train: ReplyTable) -> None:
        check_enough(train)
        self._scorers = [_Scorer(self.terms.seed) for _ in train.cards]
        rows = range(len(train))
        right = train.correct >= 0.5
        self._scores = np.column_stack(
            [scorer.fit(_pairs(train, c, rows), right[:, c]) for c, scorer in enumerate(self._scorers)]
        )
        self._train = train
        self._plans: dict[float, _Plan] = {}  # by λ

    def chosen(self) -> str:
        plan = self.plan()
        steps = [self._train.names[column] for column in plan.columns]
        return " > ".join(
            f"{name} ({threshold:.2f})" if threshold is not None else name
            for name, threshold in itertools.zip_longest(steps, plan.thresholds)
        )

    def plan(self) -> _Plan:
        """The cascade of the highest mean utility on the training questions at the current λ."""
        if self.lambda_ not in self._plans:
            self._plans[self.lambda_] = self._search()
        return self._plans[self.lambda_]

    def _search(self) -> _Plan:
        costs = self._train.cost_usd / cost_scale(self._train)
        order = [int(column) for column in np.argsort(costs.mean(axis=0), kind="stable")]
        if len(order) > _SHORTLIST:
            worth = (self._train.correct - self.lambda_ * costs).mean(axis=0)
            kept = {order[0], *np.argsort(-worth, kind="stable")[: _SHORTLIST - 1].tolist()}
            order = [column for column in order if column in kept]
        chains = itertools.chain.from_iterable(itertools.combinations(order, n) for n in range(1, _LONGEST + 1))
        best, plan = -np.inf, _Plan((order[0],), ())
        for columns in chains:
            worth_of = self._worth(columns, costs)
            for thresholds in itertools.product(*(self._levels(column) for column in columns[:-1])):
                if (worth := worth_of(thresholds)) > best + 1e-9:
                    best, plan = worth, _Plan(columns, thresholds)
        return plan

    def route(self, table: ReplyTable) -> list[AskingOrder]:
        plan = self.plan()
        asked: list[AskingOrder] = [()] * len(table)
        going = np.arange(len(table))
        for place, column in enumerate(plan.columns):
            for row in going:
                asked[row] += (column,)
            if place < len(plan.thresholds) and len(going):
                scores = self._scorers[column].score(_pairs(table, column, going))
                going = going[scores < plan.thresholds[place]]
        return asked

    def _worth(self, columns: tuple[int, ...], costs: Floats) -> Any:
        """A function from thresholds to mean utility; built up from the last candidate to the first."""
        correct = self._train.correct

        def worth(thresholds: Sequence[float]) -> float:
            value = correct[:, columns[-1]] - self.lambda_ * costs[:, columns[-1]]
            for column, threshold in reversed(list(zip(columns, thresholds, strict=False))):
                taken = self._scores[:, column] >= threshold
                value = np.where(taken, correct[:, column], value) - self.lambda_ * costs[:, column]
            return float(value.mean())

        return worth

    def _levels(self, column: int) -> list[float]:
        return sorted(set(np.quantile(self._scores[:, column], np.linspace(0.1, 0.9, _LEVELS)).tolist()))


class _Scorer:
    """One candidate's g(question, reply): the probability that the reply is right."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._always: float | None = None  # where the training replies are all right, or all wrong

    def fit(self, pairs: Sequence[tuple[str, str]], right: np.ndarray) -> Floats:
        """Learn; return the scores of the training pairs, each by a scorer that did not see it."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict

        if min(right.sum(), len(right) - right.sum()) < _FOLDS:
            self._always = float(right.mean())
            return np.full(len(right), self._always)
        features = _hashed(pairs)
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=self._seed)
        search = GridSearchCV(
            LogisticRegression(solver="liblinear", random_state=self._seed),
            {"C": _STRENGTHS},
            scoring="neg_log_loss",
            cv=folds,
        ).fit(features, right)
        self._model: Any = search.best_estimator_
        left_out = cross_val_predict(search.best_estimator_, features, right, cv=folds, method="predict_proba")
        return np.asarray(left_out[:, 1], dtype=np.float64)

    def score(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        if self._always is not None:
            return np.full(len(pairs), self._always)
        return np.asarray(self._model.predict_proba(_hashed(pairs))[:, 1], dtype=np.float64)


def _pairs(table: ReplyTable, column: int, rows: Sequence[int] | np.ndarray) -> list[tuple[str, str]]:
    return [(table.questions[row].text, table.replies[row][column].text) for row in rows]


def _hashed(pairs: Sequence[tuple[str, str]]) -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(analyzer=_marks, n_features=2**16, alternate_sign=False, norm="l2").transform(pairs)


def _marks(pair: tuple[str, str]) -> list[str]:
    """What tells a doubtful reply: words of question and reply, its length, how much of it is the question's."""
    asked, replied = (_WORD.findall(text.lower()) for text in pair)
    repeated = len(set(replied) & set(asked)) / max(1, len(set(replied)))
    words = [f"q {word}" for word in asked] + [f"r {word}" for word in replied]
    pairs = [f"r {a} {b}" for a, b in itertools.pairwise(replied)] + [
        f"q {a} {b}" for a, b in itertools.pairwise(asked)
    ]
    return [*words, *pairs, f"length {len(replied).bit_length()}", f"repeated {repeated:.1f}"]
