"""Baseline rows: routers fitted on one reply table and played on another, as items of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actors.questions import Question
from benchmarks.baselines.comparison import EMBEDDED, NAMES, Play, spell_out, sweep
from benchmarks.baselines.router import HASHING, RouterError
from benchmarks.evaluation.item import Item, routed_items
from benchmarks.evaluation.measure import EXACT
from benchmarks.evaluation.methods import ALONE, BEST_CONSTANT_TRAINING, CHEAPEST_RIGHT, RANDOM
from benchmarks.evaluation.old_names import row_of_today
from benchmarks.evaluation.reply_table import ReplyTable

UNTRAINED = ("direct", "cot", "prompt_only")  # rows of a model that was not trained to route; no table holds them
_ALL, _NONE = "all", "none"
_EVERY = (*UNTRAINED, *NAMES)
_BLIND = (RANDOM, "largest", "cheapest", BEST_CONSTANT_TRAINING, CHEAPEST_RIGHT)  # they ignore λ, so one row is enough


@dataclass(frozen=True, slots=True)
class Contest:
    """A table to fit baselines on, a table to play them on, and the questions of the evaluation."""

    train: ReplyTable
    test: ReplyTable
    questions: tuple[Question, ...]  # they differ from `test`'s if a question is played hop by hop
    play: Play | None = None  # as in `comparison.compare`


@dataclass(frozen=True, slots=True)
class BaselineRow:
    """A planned row: a router and its settings."""

    router: str
    lambda_: float
    embedding: str = HASHING  # of the questions

    @property
    def method(self) -> str:
        """The router with its embedding, without λ."""
        return self.router if self.embedding == HASHING else f"{self.router}, {self.embedding}"

    @property
    def name(self) -> str:
        return f"{self.method}, λ={self.lambda_:g}" if self.lambda_ else self.method


def chosen_names(names: Sequence[str]) -> tuple[str, ...]:
    """The baselines that names mean, in today's form; `all` and `none` may be given too.

    Raises:
        RouterError: there is no such baseline, or `none` is given together with others.
    """
    if tuple(names) == (_NONE,):
        return ()
    spelt = tuple(dict.fromkeys(part for name in names for part in (_EVERY if name == _ALL else (row_of_today(name),))))
    for name in spelt:
        if name not in _EVERY and not name.startswith(f"{ALONE}:"):
            raise RouterError(f"baseline {name!r}: not found; there are {', '.join(_EVERY)}")
    return spelt


def planned_rows(
    names: Sequence[str], lambdas: Sequence[float], train: ReplyTable, embedding: str = HASHING
) -> list[BaselineRow]:
    """A row for each router and λ, in this order. Routers that ignore λ have one row.

    Args:
        embedding: the question embedding of the routers that use one.

    Raises:
        RouterError: a name is unknown, or there is no λ.
    """
    if not lambdas:
        raise RouterError("no λ to try; give at least one, such as 0")
    return [
        BaselineRow(name, lambda_, embedding if name in EMBEDDED else HASHING)
        for name in spell_out(names, train)
        for lambda_ in ((0.0,) if name in _BLIND or name.startswith(f"{ALONE}:") else lambdas)
    ]


Made = tuple[BaselineRow, list[Item], str]  # a row, its items, and the reason if it has none


def make_rows(contest: Contest, rows: Sequence[BaselineRow], seed: int) -> Iterator[Made]:
    """Yield each row with its items; or with no items and the reason why the router can't be fitted on the table.

    Raises:
        ReplyTableError: the tables share questions, or their candidates differ.
    """
    measure = EXACT if contest.play is not None else contest.test.measure
    for router, embedding in dict.fromkeys((row.router, row.embedding) for row in rows):
        mine = [row for row in rows if (row.router, row.embedding) == (router, embedding)]
        lambdas = [row.lambda_ for row in mine]
        found = sweep(contest.train, contest.test, [router], seed, lambdas, embedding=embedding, play=contest.play)
        for row, played in zip(mine, found, strict=True):
            items = [] if played.left_out else routed_items(row.name, contest.questions, played.outcomes, measure)
            yield row, items, played.left_out
