"""The pool table: one policy with several pools of candidates side by side, each against the best that its pool allows.

The bounds of a pool are its cheapest right candidate and its best constant in training, as far as there is a table of
everyone's replies.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.evaluation.formats import dollars, percent, points_text, share_text
from benchmarks.evaluation.item import Item
from benchmarks.evaluation.methods import BEST_CONSTANT_TRAINING, CHEAPEST_RIGHT, METHODS
from benchmarks.evaluation.row_summary import Against, RowSummary, against, summarise_row
from benchmarks.evaluation.statistics import RESAMPLES, Interval, holm, ratio_interval
from benchmarks.evaluation.tables import Column, Table, text_columns

BOUNDS = (CHEAPEST_RIGHT, BEST_CONSTANT_TRAINING)  # of a pool
_RIGHT, _CONSTANT = (METHODS[key] for key in BOUNDS)
POOLS_LEAD = (
    f"The same questions with other candidates: each row against the {_RIGHT.name} and the {_CONSTANT.name} of its own "
    f"pool, and against the policy's row with the candidates as trained. The {_RIGHT.name} {_RIGHT.meaning}. The "
    f"{_CONSTANT.name} {_CONSTANT.meaning}."
)


@dataclass(frozen=True, slots=True)
class Pool:
    """The candidates of some rows."""

    label: str
    fingerprint: str
    cards: Mapping[str, Mapping[str, Any]]  # what of each decides replies and their price, by name


@dataclass(frozen=True, slots=True)
class Played:
    """The items of one row, and those that they are measured by: of the same row with the candidates as trained, and
    of the bounds of its own pool, which may be missing."""

    pool: str  # label
    row: str  # the policy's, such as `policy`
    items: Sequence[Item]
    lost: int
    as_trained: Sequence[Item] = ()  # none, where this is that row
    cheapest_right: Sequence[Item] = ()
    best_constant_training: Sequence[Item] = ()


@dataclass(frozen=True, slots=True)
class PoolRow:
    """One row of the table. What is not known is None."""

    pool: str
    row: str
    summary: RowSummary
    cheapest_right_em: float | None
    cheapest_right_usd_per_1k: float | None
    of_cheapest_right: Interval | None  # exact match as a share of that one's, on the questions that both answered
    best_constant_training: str | None  # the candidate
    best_constant_training_em: float | None
    best_constant_training_usd_per_1k: float | None
    against_best_constant_training: Against | None
    against_trained: Against | None


@dataclass(frozen=True, slots=True)
class PoolTable:
    """All that the table tells."""

    pools: Sequence[Pool]
    rows: Sequence[PoolRow]
    notes: Sequence[str] = ()


def pool_rows(played: Sequence[Played], resamples: int = RESAMPLES) -> list[PoolRow]:
    """Sum up the rows; p-values are adjusted among all rows, of each kind of comparison by itself.

    Raises:
        EvaluationError: a row has no items.
    """
    rows = [_pool_row(each, resamples) for each in played]
    for name in ("against_best_constant_training", "against_trained"):
        rows = _adjusted(rows, name)
    return rows


def share_of(ours: Sequence[Item], theirs: Sequence[Item], resamples: int = RESAMPLES) -> Interval | None:
    """Exact match of a row as a share of another's, by macro averages over the questions that both answered; None
    where there are none, or the other is never right."""
    mine, others = _means(ours), _means(theirs)
    sets: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for key in sorted(mine.keys() & others.keys()):
        sets[key[0]].append((mine[key], others[key]))
    if not sets:
        return None
    found = ratio_interval(
        [[pair[0] for pair in pairs] for pairs in sets.values()],
        [[pair[1] for pair in pairs] for pairs in sets.values()],
        resamples=resamples,
    )
    return None if math.isnan(found.mean) else found


def pool_tables(found: PoolTable) -> list[Table]:
    """The policy with each pool, the pools' candidates with their prices, and who is asked."""
    return [_played_table(found), _prices_table(found), _shares_table(found.rows)]


def _played_table(found: PoolTable) -> Table:
    own = any(row.summary.policy_usd_per_1k for row in found.rows)
    columns = [
        *text_columns("Pool", "Row"), Column("Questions"), Column("Exact match", "%, 95 % interval"),
        Column("F1", "%, 95 % interval"), Column("Price", "USD per 1k"),
        *([Column("Own tokens", "USD per 1k")] if own else []), Column("Calls", "per question"),
        Column("No answer", "%"), Column("Lost"),
        Column(_RIGHT.name.capitalize(), "%"), Column("Its price", "USD per 1k"),
        Column("Share of its exact match", "%, 95 % interval"), *text_columns(_CONSTANT.name.capitalize()),
        Column("Its exact match", "%"), Column("Its price", "USD per 1k"),
        Column("Against it", "points, 95 % interval"), Column("p", "Holm"),
        Column("Against as trained", "points, 95 % interval"), Column("p", "Holm"),
    ]  # fmt: skip
    rows = [
        [
            row.pool, row.row, f"{row.summary.questions:,}", share_text(row.summary.em), share_text(row.summary.f1),
            dollars(row.summary.usd_per_1k), *([dollars(row.summary.policy_usd_per_1k)] if own else []),
            f"{row.summary.calls:.2f}", percent(row.summary.unanswered), f"{row.summary.lost:,}",
            percent(row.cheapest_right_em), dollars(row.cheapest_right_usd_per_1k), share_text(row.of_cheapest_right),
            row.best_constant_training, percent(row.best_constant_training_em),
            dollars(row.best_constant_training_usd_per_1k), *_gap(row.against_best_constant_training),
            *_gap(row.against_trained),
        ]
        for row in found.rows
    ]  # fmt: skip
    return Table("The policy with each pool", columns, rows)


def _prices_table(found: PoolTable) -> Table:
    """Candidates with their prices in each pool: a row shows at once what differs between pools."""
    names = list(dict.fromkeys(name for pool in found.pools for name in pool.cards))
    columns = [*text_columns("Candidate"), *(Column(pool.label, pool.fingerprint) for pool in found.pools)]
    rows = [[name, *(_prices(pool.cards.get(name)) for pool in found.pools)] for name in names]
    return Table("Their candidates: USD per million tokens in / out", columns, rows, folded=len(names) > 6)


def _shares_table(rows: Sequence[PoolRow]) -> Table:
    """Candidates in rows, since there are more of them than pools."""
    shares: Sequence[Mapping[str, float]] = [row.summary.call_share for row in rows]
    names = sorted({name for share in shares for name in share}, key=lambda n: [-share.get(n, 0.0) for share in shares])
    several = len({row.row for row in rows}) > 1
    columns = [Column(f"{row.pool}, {row.row}" if several else row.pool, "% of calls") for row in rows]
    cells = [[name, *(percent(s[name]) if name in s else "" for s in shares)] for name in names]
    return Table(
        "Share of the calls with each pool", [*text_columns("Candidate"), *columns], cells, folded=len(names) > 6
    )


def _pool_row(each: Played, resamples: int) -> PoolRow:
    summary = summarise_row(f"{each.row} with {each.pool}", each.items, lost=each.lost, resamples=resamples)
    right = _bound(CHEAPEST_RIGHT, each.cheapest_right, resamples)
    constant = _bound(BEST_CONSTANT_TRAINING, each.best_constant_training, resamples)
    return PoolRow(
        pool=each.pool,
        row=each.row,
        summary=summary,
        cheapest_right_em=right.em.mean if right else None,
        cheapest_right_usd_per_1k=right.usd_per_1k if right else None,
        of_cheapest_right=share_of(each.items, each.cheapest_right, resamples),
        best_constant_training=next(iter(constant.call_share), None) if constant else None,
        best_constant_training_em=constant.em.mean if constant else None,
        best_constant_training_usd_per_1k=constant.usd_per_1k if constant else None,
        against_best_constant_training=_against(
            each.items, each.best_constant_training, BEST_CONSTANT_TRAINING, resamples
        ),
        against_trained=_against(each.items, each.as_trained, "as trained", resamples),
    )


def _bound(name: str, items: Sequence[Item], resamples: int) -> RowSummary | None:
    return summarise_row(name, items, resamples=resamples) if items else None


def _against(ours: Sequence[Item], theirs: Sequence[Item], name: str, resamples: int) -> Against | None:
    if not theirs:
        return None
    return against({"ours": ours, name: theirs}, name, resamples=resamples).get("ours")


def _adjusted(rows: Sequence[PoolRow], name: str) -> list[PoolRow]:
    compared: list[Against] = [found for row in rows if (found := getattr(row, name)) is not None]
    adjusted = iter(holm([each.comparison.p_value for each in compared]))
    return [
        row if (found := getattr(row, name)) is None else replace(row, **{name: replace(found, p_holm=next(adjusted))})
        for row in rows
    ]


def _means(items: Iterable[Item]) -> dict[tuple[str, str], float]:
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    for item in items:
        scores[item.dataset, item.question].append(item.em)
    return {key: float(np.mean(each)) for key, each in scores.items()}


def _gap(found: Against | None) -> tuple[str | None, str | None]:
    return (None, None) if found is None else (points_text(found.comparison.difference), f"{found.p_holm:.2g}")


def _prices(card: Mapping[str, Any] | None) -> str | None:
    return None if card is None else f"{card['price_in_usd_per_mtok']:g} / {card['price_out_usd_per_mtok']:g}"
