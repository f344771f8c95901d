"""Baseline rows: routers fitted on one reply table and played over another, as items of an evaluation."""

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

UNTRAINED = ("direct", "cot", "prompt_only")  # what a model plays that was not taught to route; no table tells them
_ALL, _NONE = "all", "none"
_EVERY = (*UNTRAINED, *NAMES)
_BLIND = (RANDOM, "largest", "cheapest", BEST_CONSTANT_TRAINING, CHEAPEST_RIGHT)  # to λ: one row is enough


@dataclass(frozen=True, slots=True)
class Contest:
    """What baselines are made of: a table to fit them on, one to play them over, and the questions of the latter."""

    train: ReplyTable
    test: ReplyTable
    questions: tuple[Question, ...]  # of the evaluation, where these are not the table's own
    play: Play | None = None  # as in `comparison.compare`


@dataclass(frozen=True, slots=True)
class BaselineRow:
    """A row to be made."""

    router: str
    lambda_: float
    embedding: str = HASHING  # of the questions

    @property
    def method(self) -> str:
        """The router, whatever its λ."""
        return self.router if self.embedding == HASHING else f"{self.router}, {self.embedding}"

    @property
    def name(self) -> str:
        return f"{self.method}, λ={self.lambda_:g}" if self.lambda_ else self.method


def chosen_names(names: Sequence[str]) -> tuple[str, ...]:
    """The baselines that `all`, `none` or names mean, by their names of today.

    Raises:
        RouterError: there is none of that name, or `none` stands beside others.
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
    """The rows that names and weights of cost lead to, in their order; routers that embed questions do so by
    `embedding`.

    Raises:
        RouterError: a name is unknown, or there is no λ.
    """
    if not lambdas:
        raise RouterError("no λ to try; give one at least, such as 0")
    return [
        BaselineRow(name, lambda_, embedding if name in EMBEDDED else HASHING)
        for name in spell_out(names, train)
        for lambda_ in ((0.0,) if name in _BLIND or name.startswith(f"{ALONE}:") else lambdas)
    ]


Made = tuple[BaselineRow, list[Item], str]  # a row, its items, and why there are none


def make_rows(contest: Contest, rows: Sequence[BaselineRow], seed: int) -> Iterator[Made]:
    """Each row with its items, or with none and the reason where the table does not allow for it; made one by one.

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
