"""The comparison: routers by name, fitted on one reply table and played over another, a row for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from benchmarks.baselines.router import HASHING, Router, RouterError, Terms
from benchmarks.evaluation.means import Evaluation, Outcome, summarise
from benchmarks.evaluation.methods import ALONE, BEST_CONSTANT_TRAINING, CHEAPEST_RIGHT, RANDOM
from benchmarks.evaluation.old_names import row_of_today
from benchmarks.evaluation.reply_table import ReplyTable, check_apart

# name -> module and class; imported only when it is asked for
ROUTERS = {
    RANDOM: ("fixed", "Uniform"),
    "largest": ("fixed", "Largest"),
    "cheapest": ("fixed", "Cheapest"),
    BEST_CONSTANT_TRAINING: ("fixed", "BestConstantTraining"),
    "best_utility": ("fixed", "BestUtility"),
    CHEAPEST_RIGHT: ("fixed", "CheapestRight"),
    "cascade": ("cascade", "Cascade"),
    "knn": ("expected", "NearestNeighbours"),
    "mlp": ("expected", "Perceptron"),
    "matrix_factorisation": ("matrix_factorisation", "MatrixFactorisation"),
    "contrastive": ("contrastive", "Contrastive"),
    "ppo": ("ppo", "PPO"),
}
NAMES = (ALONE, *ROUTERS)
EMBEDDED = ("knn", "mlp", "matrix_factorisation", "contrastive", "ppo")  # they read the question by its embedding
LEARNED = ("cascade", *EMBEDDED)

Play = Callable[[Router], list[Outcome]]


@dataclass(frozen=True, slots=True)
class Row:
    """One router over the test questions."""

    name: str
    lambda_: float
    outcomes: tuple[Outcome, ...]  # in the order of the test questions; none where it was left out
    evaluation: Evaluation | None  # None where it was left out
    chosen: str = ""  # what it learnt or chose, in a few words
    left_out: str = ""  # why there is no evaluation
    fit_s: float = 0.0  # seconds


def compare(
    table_train: ReplyTable,
    table_test: ReplyTable,
    names: Sequence[str] = NAMES,
    seed: int = 0,
    lambda_: float = 0.0,
    *,
    embedding: str = HASHING,
    play: Play | None = None,
) -> list[Row]:
    """Fit the routers named on one table, and play them over the other (or by `play`).

    Raises:
        ReplyTableError: the tables share questions, or their candidates differ.
        RouterError: there is no such router, or λ is out of range. A router that the tables do not allow for is not
            an error: its row says why it was left out.
    """
    return sweep(table_train, table_test, names, seed, (lambda_,), embedding=embedding, play=play)


def sweep(
    table_train: ReplyTable,
    table_test: ReplyTable,
    names: Sequence[str],
    seed: int,
    lambdas: Sequence[float],
    *,
    embedding: str = HASHING,
    play: Play | None = None,
) -> list[Row]:
    """The rows of `compare` for each λ, router by router; only those whose training knows λ are trained again.

    Raises:
        ReplyTableError, RouterError: as `compare`.
    """
    if not lambdas:
        raise RouterError("no λ to try; give one at least, such as 0")
    check_apart(table_train, table_test)
    terms = [Terms(lambda_, seed, embedding) for lambda_ in lambdas]
    play = play or (lambda router: router.play(table_test))
    rows: list[Row] = []
    for name in spell_out(names, table_train):
        with make_router(name, terms[0]).running():
            rows += _rows(name, table_train, terms, play)
    return rows


def make_router(name: str, terms: Terms) -> Router:
    """The router of a name, `alone:CARD` included.

    Raises:
        RouterError: there is none of that name.
    """
    if name.startswith(f"{ALONE}:"):
        from benchmarks.baselines.fixed import Alone

        return Alone(terms, name.removeprefix(f"{ALONE}:"))
    if name not in ROUTERS:
        raise RouterError(f"baseline {name!r}: not found; there are {', '.join(NAMES)}")
    module, kind = ROUTERS[name]
    router: Router = getattr(import_module(f"benchmarks.baselines.{module}"), kind)(terms)
    return router


def spell_out(names: Sequence[str], table: ReplyTable) -> list[str]:
    """The names of today, with `alone` replaced by each candidate's; all are known."""
    spelt: list[str] = []
    for name in map(row_of_today, names):
        spelt += [f"{ALONE}:{card}" for card in table.names] if name == ALONE else [name]
    for name in spelt:
        make_router(name, Terms())
    return list(dict.fromkeys(spelt))


def _rows(name: str, train: ReplyTable, terms: Sequence[Terms], play: Play) -> list[Row]:
    rows: list[Row] = []
    router: Router | None = None
    seconds = 0.0
    for each in terms:
        try:
            if router is None or router.learns_lambda:
                started = time.perf_counter()
                router = make_router(name, each)
                router.fit(train)
                seconds = time.perf_counter() - started
            router.lambda_ = each.lambda_
        except RouterError as error:
            router = None
            rows.append(Row(name, each.lambda_, (), None, left_out=str(error)))
            continue
        outcomes = tuple(play(router))
        rows.append(Row(name, each.lambda_, outcomes, summarise(outcomes), router.chosen(), fit_s=seconds))
    return rows
