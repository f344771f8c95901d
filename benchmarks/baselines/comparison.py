"""The comparison: routers by name, fitted on one reply table and played on another; one row for each."""

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

# name -> module and class; a module is imported only when one of its routers is used
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
EMBEDDED = ("knn", "mlp", "matrix_factorisation", "contrastive", "ppo")  # routers that use an embedding of the question
LEARNED = ("cascade", *EMBEDDED)

Play = Callable[[Router], list[Outcome]]


@dataclass(frozen=True, slots=True)
class Row:
    """One router's results on the test questions."""

    name: str
    lambda_: float
    outcomes: tuple[Outcome, ...]  # in the order of the test questions; empty if the router was left out
    evaluation: Evaluation | None  # None if the router was left out
    chosen: str = ""  # `Router.chosen`
    left_out: str = ""  # the reason why the router was left out; empty otherwise
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
    """Fit the named routers on one table, and play them on the other (or with `play`).

    A router that can't be fitted on the table is no error: its row gives the reason.

    Raises:
        ReplyTableError: the tables share questions, or their candidates differ.
        RouterError: there is no such router, or λ is out of range.
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
    """The rows of `compare` for each λ, router by router. Only routers whose training uses λ are trained for each.

    Raises:
        ReplyTableError, RouterError: as `compare`.
    """
    if not lambdas:
        raise RouterError("no λ to try; give at least one, such as 0")
    check_apart(table_train, table_test)
    terms = [Terms(lambda_, seed, embedding) for lambda_ in lambdas]
    play = play or (lambda router: router.play(table_test))
    rows: list[Row] = []
    for name in spell_out(names, table_train):
        with make_router(name, terms[0]).running():
            rows += _rows(name, table_train, terms, play)
    return rows


def make_router(name: str, terms: Terms) -> Router:
    """The router with this name; `alone:CARD` is one too.

    Raises:
        RouterError: there is no router with this name.
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
    """Today's form of the names, each once; `alone` becomes one name for each candidate.

    Raises:
        RouterError: there is no router with one of the names.
    """
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
