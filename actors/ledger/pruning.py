"""Prunes a ledger: old calls of runs that are over, or only their texts."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, delete, func, select, update

from actors.ledger.entry import LedgerError
from actors.ledger.report import DAY_US, cost_nano
from actors.ledger.schema import MICRO, NANO, calls, lookups

_LIVE_US = DAY_US  # a run with a call in the last day counts as live
_CHUNK = 5_000  # rows per transaction: callers wait while it runs


@dataclass(frozen=True, slots=True)
class Pruning:
    """A plan for a pruning."""

    before_us: int  # prune calls begun before this time, in microseconds since 1970
    texts_only: bool  # rows and their costs stay, requests and replies are removed
    kept_runs: tuple[str, ...]  # named by the user, or live: their reservations and sums are in use
    live_runs: tuple[str, ...]
    calls: int
    cost_usd: float


def plan(connection: Connection, older_than_days: float, *, texts_only: bool, keep_runs: tuple[str, ...]) -> Pruning:
    """Plan a pruning; changes nothing. Live runs keep all their calls."""
    now_us = int(time.time() * MICRO)
    latest = func.max(func.coalesce(calls.c.settled_us, calls.c.started_us))
    runs = connection.scalars(select(calls.c.run).group_by(calls.c.run).having(latest > now_us - _LIVE_US)).all()
    before_us, kept = now_us - int(older_than_days * DAY_US), (*keep_runs, *runs)
    query = select(func.count(), func.coalesce(func.sum(cost_nano), 0)).where(_doomed(before_us, texts_only, kept))
    count, cost = connection.execute(query).one()
    connection.rollback()  # ends the transaction, because the user may take long to decide
    return Pruning(before_us, texts_only, kept, tuple(runs), count, int(cost) / NANO)


def prune(connection: Connection, pruning: Pruning) -> None:
    """Prune in short transactions. SQLite keeps the freed space in its file, so give that back.

    Raises:
        LedgerError: the calls are pruned, but the file can't shrink now.
    """
    chunk = select(calls.c.id).where(_doomed(pruning.before_us, pruning.texts_only, pruning.kept_runs)).limit(_CHUNK)
    doomed = calls.c.id.in_(chunk.scalar_subquery())
    # A call without its reply must give up its claim, so that the same call at its place is asked again.
    forget = update(calls).where(doomed).values(request=None, reply=None, claim=None)
    statement = forget if pruning.texts_only else delete(calls).where(doomed)
    while connection.execute(statement).rowcount:
        connection.commit()
    over = lookups.c.run.not_in(select(calls.c.run)), lookups.c.run.not_in(pruning.kept_runs)
    connection.execute(delete(lookups).where(*over))
    connection.commit()
    if connection.dialect.name == "sqlite":
        # As a script, because each step of this statement frees one page, and the DBAPI's execute makes only one step.
        driver = connection.connection.driver_connection
        assert driver is not None
        try:
            driver.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            raise LedgerError(f"pruned, but the file keeps its size for now ({error}); prune again later") from error


def _doomed(before_us: int, texts_only: bool, kept_runs: tuple[str, ...]) -> ColumnElement[bool]:
    old = and_(calls.c.started_us < before_us, calls.c.run.not_in(kept_runs))
    return and_(old, calls.c.request.is_not(None)) if texts_only else old
