"""The ledger's transactions: each writes a batch of entries and outcomes; look-ups read beside them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, case, delete, func, insert, select, true, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from actors.ledger.database import (
    BUSY_TIMEOUT_S,
    check_file,
    connect,
    database_url,
    explain,
    json_rows,
    open_tables,
    passes,
    rows_of,
    shown,
)
from actors.ledger.entry import CANCELLED, FINAL, OPEN, CallPlace, LedgerError, Settled
from actors.ledger.rows import Begin, Count, Operation, Settle, Withdraw, claim_of, settled_of
from actors.ledger.schema import MICRO, NANO, calls, lookups

_SETTLED = ("status", "reply", "prompt_tokens", "completion_tokens", "estimated", "latency_s", "attempts", "error")
_SETTLED_COLUMNS = [calls.c[name] for name in (*_SETTLED, "hedged", "cost_nano")]
_BEGIN = (
    "id", "claim", "run", "step", "episode", "turn", "call_index", "model", "endpoint", "request_hash",
    "started_us", "reserved_nano", "status", "request",
)  # fmt: skip
_REPLIES = select(*_SETTLED_COLUMNS).where(calls.c.status.in_(FINAL), calls.c.reply.is_not(None)).limit(1)
_SAME_PLACE = _REPLIES.where(calls.c.claim == bindparam("claim")).order_by(
    case((calls.c.run == bindparam("run"), 0), else_=1)
)
_LATEST = _REPLIES.where(calls.c.request_hash == bindparam("hash")).order_by(calls.c.started_us.desc())
# All outcomes of a call at its place, the latest first. Not found by claim, because failed calls have given it up.
_AT_PLACE = (
    select(calls.c.run, *_SETTLED_COLUMNS)
    .where(calls.c.request_hash == bindparam("hash"), calls.c.episode == bindparam("episode"))
    .where(calls.c.step == bindparam("step"), calls.c.turn == bindparam("turn"))
    .where(calls.c.call_index == bindparam("index"))
    .where(calls.c.status.not_in((OPEN, CANCELLED)), calls.c.reply.is_not(None))
    .order_by(calls.c.started_us.desc())
)
_AMOUNT = case((calls.c.status == OPEN, calls.c.reserved_nano), else_=calls.c.cost_nano)
_SETTLE = (*_SETTLED, "hedged", "cost_nano", "settled_us")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0  # before a retry after a temporary error
_UPDATE = ("id", *_SETTLE)
# SQLite reads rows from VALUES in half the time that it needs for JSON; it still is one statement per batch.
_SQLITE_INSERT = f"INSERT INTO {calls.name} ({', '.join(_BEGIN)}) VALUES "
_SQLITE_UPDATE = (
    f"UPDATE {calls.name} SET {', '.join(f'{name} = new.column{at}' for at, name in enumerate(_SETTLE, 2))} "
    f"FROM (VALUES {{}}) AS new WHERE {calls.name}.id = new.column1 AND {calls.name}.status = '{OPEN}'"
)
_SQLITE_VARIABLES = 32766  # most variables that one statement may bind


class _NotOpen(Exception):
    """An entry to settle is not in the ledger, or is already settled."""


class LedgerStore:
    """One process's connections to a ledger. One thread may call `write`, another one the other methods.

    After a temporary error (the database restarts, or transactions exclude each other) an operation is retried for
    `busy_timeout_s` seconds.
    """

    def __init__(self, where: str, run: str, busy_timeout_s: float = BUSY_TIMEOUT_S, create: bool = True) -> None:
        """Open the ledger; if it is missing and `create`, make it.

        Raises:
            LedgerError: the ledger can't be opened, does not exist, or has a newer version.
        """
        self.url = database_url(where)
        self.run = run
        self._busy_timeout_s = busy_timeout_s
        if not create:
            check_file(self.url)
        self._engine = connect(self.url, busy_timeout_s=busy_timeout_s)
        open_tables(self._engine, create=create, busy_timeout_s=busy_timeout_s)
        self._claims: dict[str, str] = {}  # of this process's unfinished calls, by entry id
        name = self._engine.dialect.name
        begin = rows_of(name, {column: calls.c[column].type for column in _BEGIN})
        self._insert = insert(calls).from_select(list(_BEGIN), select(*begin.values()))
        settle = rows_of(name, {column: calls.c[column].type for column in ("id", *_SETTLE)})
        self._update = (
            update(calls)
            .where(calls.c.id == settle["id"], calls.c.status == OPEN)
            .values({column: settle[column] for column in _SETTLE})
        )
        claims = select(*rows_of(name, {"claim": calls.c.claim.type}).values())
        self._select_claimed = select(calls.c.id, calls.c.claim, *_SETTLED_COLUMNS).where(
            calls.c.claim.in_(claims), calls.c.run == run
        )
        ids = select(*rows_of(name, {"id": calls.c.id.type}).values())
        self._free_claims = update(calls).where(calls.c.id.in_(ids)).values(claim=None)
        self._withdraw = delete(calls).where(calls.c.id.in_(ids), calls.c.status == OPEN)

    def write(self, batch: Sequence[Operation]) -> list[Settled | LedgerError | None]:
        """Write a batch in one transaction. If an operation is invalid, write each in a transaction of its own.

        Returns for each operation its error, or the earlier outcome at the place of a `Begin`, or None.

        Raises:
            LedgerError: the database failed.
        """
        try:
            outcomes = self._transact(batch)
        except (IntegrityError, DataError, _NotOpen) as error:
            if len(batch) > 1:
                return [outcome for operation in batch for outcome in self.write([operation])]
            what = error if isinstance(error, _NotOpen) else explain(error, self.url)
            return [LedgerError(str(what))]
        except DBAPIError as error:
            raise explain(error, self.url) from error
        for operation, outcome in zip(batch, outcomes, strict=True):
            if isinstance(operation, Begin) and operation.claim and outcome is None:
                self._claims[operation.id] = operation.claim
            elif isinstance(operation, Settle | Withdraw):
                self._claims.pop(operation.id, None)
        return outcomes

    def find(self, request_hash: str, place: CallPlace | None) -> Settled | None:
        """The reply to a request: at the same place in this run, else in any run, else the latest; None if none.

        Raises:
            LedgerError: the database can't be read.
        """
        if place is not None and place.episode:
            rows = self._read(_SAME_PLACE, {"claim": claim_of(place, request_hash), "run": self.run})
            if rows:
                return settled_of(rows[0])
        rows = self._read(_LATEST, {"hash": request_hash})
        return settled_of(rows[0]) if rows else None

    def recorded(self, request_hash: str, place: CallPlace, run: str | None) -> Settled | None:
        """The outcome of a call at its place in `run` or, if None, in the run that made it last: its reply, or else its
        last failure. If no call was made at that place, the latest reply to the request.

        Raises:
            LedgerError: the database can't be read.
        """
        of_run = calls.c.run == run if run is not None else true()
        if place.episode:
            values = {"hash": request_hash, "episode": place.episode, "step": place.step}
            rows = self._read(_AT_PLACE.where(of_run), values | {"turn": place.turn, "index": place.index})
            rows = [row for row in rows if row.run == rows[0].run]
            if rows:
                return settled_of(next((row for row in rows if row.status in FINAL), rows[0]))
        rows = self._read(_LATEST.where(of_run), {"hash": request_hash})
        return settled_of(rows[0]) if rows else None

    def spent_usd(self, since: float | None, run: str | None, settled: bool) -> dict[str, float]:
        """Dollars by card: the costs of settled calls and, unless `settled`, the reservations of open ones.

        Raises:
            LedgerError: the database can't be read.
        """
        query = select(calls.c.model, func.sum(_AMOUNT).label("nano")).group_by(calls.c.model)
        if since is not None:
            query = query.where(calls.c.started_us >= round(since * MICRO))
        if run is not None:
            query = query.where(calls.c.run == run)
        if settled:
            query = query.where(calls.c.status != OPEN)
        return {row.model: int(row.nano) / NANO for row in self._read(query)}

    def spent_by_others_usd(self, since: float) -> float:
        """Dollars of all other runs for calls begun since this time, reservations of open calls included.

        Raises:
            LedgerError: the database can't be read.
        """
        query = select(func.sum(_AMOUNT)).where(calls.c.run != self.run, calls.c.started_us >= round(since * MICRO))
        return int(self._read(query)[0][0] or 0) / NANO

    def spent_by_step_usd(self) -> dict[tuple[str, int], float]:
        """Dollars of this run by card and step, reservations of open calls included.

        Raises:
            LedgerError: the database can't be read.
        """
        query = select(calls.c.model, calls.c.step, func.sum(_AMOUNT).label("nano")).where(calls.c.run == self.run)
        rows = self._read(query.group_by(calls.c.model, calls.c.step))
        return {(row.model, row.step): int(row.nano) / NANO for row in rows}

    def close(self) -> None:
        self._engine.dispose()

    def _read(self, query: Select[*tuple[Any, ...]], values: Mapping[str, Any] | None = None) -> Sequence[Row[Any]]:
        tries = self._tries()
        while True:
            try:
                with self._engine.connect() as connection:
                    return connection.execute(query, values).all()
            except DBAPIError as error:
                if not (passes(error, self.url) and next(tries, False)):
                    raise explain(error, self.url) from error

    def _transact(self, batch: Sequence[Operation]) -> list[Settled | LedgerError | None]:
        """Write a batch, and retry after temporary errors; a batch that was written is not written again."""
        tries = self._tries()
        outcomes = None
        while True:
            try:
                with self._engine.begin() as connection:
                    if outcomes is not None and self._is_written(connection, batch, outcomes):
                        return outcomes  # only the answer to the commit was lost
                    outcomes = None
                    outcomes = self._write(connection, batch)
            except DBAPIError as error:
                if not (passes(error, self.url) and next(tries, False)):
                    raise
            else:
                return outcomes

    def _tries(self) -> Iterator[bool]:
        """Pause and yield True for each further try; end when there is no time left for another."""
        deadline, pause_s = time.monotonic() + self._busy_timeout_s, _FIRST_PAUSE_S
        while time.monotonic() + pause_s < deadline:
            time.sleep(pause_s)
            yield True
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _is_written(
        self, connection: Connection, batch: Sequence[Operation], outcomes: Sequence[Settled | LedgerError | None]
    ) -> bool:
        """True if a batch is in the ledger: it was written as a whole or not at all, so one of its entries tells.

        False if it has no such entry; the batch may then be written twice.
        """
        for operation, outcome in zip(batch, outcomes, strict=True):
            if isinstance(operation, Settle):
                found = connection.scalar(select(calls.c.settled_us).where(calls.c.id == operation.id))
                return bool(found == operation.row["settled_us"])
            if isinstance(operation, Begin) and outcome is None:
                return connection.scalar(select(calls.c.id).where(calls.c.id == operation.id)) is not None
        return False

    def _write(self, connection: Connection, batch: Sequence[Operation]) -> list[Settled | LedgerError | None]:
        begins: dict[str, Begin] = {}
        withdrawn = []
        for operation in batch:
            if isinstance(operation, Begin):
                begins[operation.id] = operation
            elif isinstance(operation, Withdraw) and begins.pop(operation.id, None) is None:
                withdrawn.append(operation.id)
        settles = [operation for operation in batch if isinstance(operation, Settle)]
        counts = [operation for operation in batch if isinstance(operation, Count)]
        if withdrawn:  # first, because calls of this batch may begin at their places
            connection.execute(self._withdraw, {"rows": json_rows({"id": id_} for id_ in withdrawn)})
        settled_before = self._write_begins(connection, [*begins.values()], withdrawn) if begins else {}
        if settles:
            self._write_settles(connection, settles)
        if counts:
            self._write_counts(connection, sum(c.hits for c in counts), sum(c.misses for c in counts))
        return [settled_before.get(operation.id) if isinstance(operation, Begin) else None for operation in batch]

    def _write_begins(
        self, connection: Connection, begins: Sequence[Begin], withdrawn: Sequence[str]
    ) -> dict[str, Settled]:
        """Write the rows of calls. A call whose place is settled is left out; its earlier outcome is returned by id."""
        under_way = set(self._claims.values())
        under_way.difference_update([self._claims[id_] for id_ in withdrawn if id_ in self._claims])
        claims = [{"claim": begin.claim} for begin in begins if begin.claim]
        claimed = {}
        if claims:
            claimed = {row.claim: row for row in connection.execute(self._select_claimed, {"rows": json_rows(claims)})}
        settled_before: dict[str, Settled] = {}
        new = []
        for begin in begins:
            row = claimed.get(begin.claim)
            if row is not None and row.status != OPEN:
                settled_before[begin.id] = settled_of(row)
            elif begin.claim in under_way:
                # The same call is already in progress: both will be paid for, and only one of them can hold the place.
                new.append(begin.row | {"claim": None})
            elif row is not None:  # left open by a process that is gone
                connection.execute(update(calls).where(calls.c.id == row.id).values(begin.row))
            else:
                new.append(begin.row)
            if begin.claim:
                under_way.add(begin.claim)
        if new:
            self._insert_rows(connection, new)
        return settled_before

    def _write_settles(self, connection: Connection, settles: Sequence[Settle]) -> None:
        if self._update_rows(connection, [settle.row for settle in settles]) != len(settles):
            ids = ", ".join(settle.id for settle in settles)
            raise _NotOpen(
                f"the ledger {shown(self.url)} has no open entry {ids}: it was settled already, taken over by a "
                "restarted caller, or never begun"
            )
        failed = [{"id": settle.id} for settle in settles if settle.frees_claim]
        if failed:
            connection.execute(self._free_claims, {"rows": json_rows(failed)})

    def _insert_rows(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if connection.dialect.name != "sqlite":
            connection.execute(self._insert, {"rows": json_rows(rows)})
            return
        for some in _chunks(rows, len(_BEGIN)):
            connection.exec_driver_sql(_SQLITE_INSERT + _places(some, _BEGIN), _bound(some, _BEGIN))

    def _update_rows(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Complete open entries; returns how many were completed."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._update, {"rows": json_rows(rows)}).rowcount
        return sum(
            connection.exec_driver_sql(_SQLITE_UPDATE.format(_places(some, _UPDATE)), _bound(some, _UPDATE)).rowcount
            for some in _chunks(rows, len(_UPDATE))
        )

    def _write_counts(self, connection: Connection, hits: int, misses: int) -> None:
        make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        row = make(lookups).values(run=self.run, hits=hits, misses=misses)
        added = {"hits": lookups.c.hits + row.excluded.hits, "misses": lookups.c.misses + row.excluded.misses}
        connection.execute(row.on_conflict_do_update(index_elements=[lookups.c.run], set_=added))


def _chunks(rows: Sequence[Mapping[str, Any]], columns: int) -> Iterator[Sequence[Mapping[str, Any]]]:
    """The rows in chunks that fit into one statement."""
    most = _SQLITE_VARIABLES // columns
    return (rows[first : first + most] for first in range(0, len(rows), most))


def _places(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Placeholders for the rows: `(?, …),(?, …),…`."""
    return ",".join([f"({','.join('?' * len(columns))})"] * len(rows))


def _bound(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> tuple[Any, ...]:
    return tuple([row[name] for row in rows for name in columns])
