"""The ledger's transactions: a batch of entries and settlements at a time, and what is looked up in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, case, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from actors.pool.ledger_database import (
    BUSY_TIMEOUT_S,
    connect,
    database_url,
    explain,
    json_rows,
    open_tables,
    rows_of,
    shown,
)
from actors.pool.ledger_entry import FINAL, OPEN, LedgerError, Place, Settled
from actors.pool.ledger_rows import Begin, Count, Operation, Settle, Withdraw, claim_of, settled_of
from actors.pool.ledger_schema import MICRO, NANO, calls, lookups

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
_SETTLE = (*_SETTLED, "hedged", "cost_nano", "settled_us")


class _NotOpen(Exception):
    """An entry to be settled is not in the ledger, or settled already."""


class LedgerStore:
    """One process's connections to a ledger. `write` is for one thread, the rest for another."""

    def __init__(self, where: str, run: str, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        """Open the ledger, or make it.

        Raises:
            LedgerError: it can't be opened, or is of a newer version.
        """
        self.url = database_url(where)
        self.run = run
        self._engine = connect(self.url, busy_timeout_s=busy_timeout_s)
        open_tables(self._engine, create=True, busy_timeout_s=busy_timeout_s)
        self._claims: dict[str, str] = {}  # of the calls under way in this process, by id
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
        """Write a batch in one transaction; an operation that can't be written is written without the others.

        Returns, for each operation, what its place was settled with before (of a `Begin`), or its error.

        Raises:
            LedgerError: the database did not take it.
        """
        try:
            with self._engine.begin() as connection:
                outcomes = self._write(connection, batch)
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

    def find(self, request_hash: str, place: Place | None) -> Settled | None:
        """The reply to a request: that of the same place of this run, of any run, or the latest, in this order.

        Raises:
            LedgerError: the database can't be read.
        """
        if place is not None and place.episode:
            rows = self._read(_SAME_PLACE, {"claim": claim_of(place, request_hash), "run": self.run})
            if rows:
                return settled_of(rows[0])
        rows = self._read(_LATEST, {"hash": request_hash})
        return settled_of(rows[0]) if rows else None

    def spent_usd(self, since: float | None, run: str | None) -> dict[str, float]:
        """Dollars by card: what settled calls cost, and what open ones have reserved.

        Raises:
            LedgerError: the database can't be read.
        """
        amount = case((calls.c.status == OPEN, calls.c.reserved_nano), else_=calls.c.cost_nano)
        query = select(calls.c.model, func.sum(amount).label("nano")).group_by(calls.c.model)
        if since is not None:
            query = query.where(calls.c.started_us >= round(since * MICRO))
        if run is not None:
            query = query.where(calls.c.run == run)
        return {row.model: int(row.nano) / NANO for row in self._read(query)}

    def close(self) -> None:
        self._engine.dispose()

    def _read(self, query: Select[*tuple[Any, ...]], values: Mapping[str, Any] | None = None) -> Sequence[Row[Any]]:
        try:
            with self._engine.connect() as connection:
                return connection.execute(query, values).all()
        except DBAPIError as error:
            raise explain(error, self.url) from error

    def _write(self, connection: Connection, batch: Sequence[Operation]) -> list[Settled | LedgerError | None]:
        begins = [operation for operation in batch if isinstance(operation, Begin)]
        settles = [operation for operation in batch if isinstance(operation, Settle)]
        withdrawn = [operation.id for operation in batch if isinstance(operation, Withdraw)]
        counts = [operation for operation in batch if isinstance(operation, Count)]
        settled_before = self._write_begins(connection, begins) if begins else {}
        if settles:
            self._write_settles(connection, settles)
        if withdrawn:
            connection.execute(self._withdraw, {"rows": json_rows({"id": id_} for id_ in withdrawn)})
        if counts:
            self._write_counts(connection, sum(c.hits for c in counts), sum(c.misses for c in counts))
        return [settled_before.get(operation.id) if isinstance(operation, Begin) else None for operation in batch]

    def _write_begins(self, connection: Connection, begins: Sequence[Begin]) -> dict[str, Settled]:
        """Write rows of calls; those whose place was settled before are left out, and returned by id."""
        under_way = set(self._claims.values())
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
                # The same call twice at once: both will be paid for, and one of them can have the place.
                new.append(begin.row | {"claim": None})
            elif row is not None:  # of a process that is gone
                connection.execute(update(calls).where(calls.c.id == row.id).values(begin.row))
            else:
                new.append(begin.row)
            if begin.claim:
                under_way.add(begin.claim)
        if new:
            connection.execute(self._insert, {"rows": json_rows(new)})
        return settled_before

    def _write_settles(self, connection: Connection, settles: Sequence[Settle]) -> None:
        done = connection.execute(self._update, {"rows": json_rows(settle.row for settle in settles)})
        if done.rowcount != len(settles):
            ids = ", ".join(settle.id for settle in settles)
            raise _NotOpen(
                f"the ledger {shown(self.url)} has no open entry {ids}: it was settled already, taken over by a "
                "restarted caller, or never begun"
            )
        failed = [{"id": settle.id} for settle in settles if settle.frees_claim]
        if failed:
            connection.execute(self._free_claims, {"rows": json_rows(failed)})

    def _write_counts(self, connection: Connection, hits: int, misses: int) -> None:
        make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        row = make(lookups).values(run=self.run, hits=hits, misses=misses)
        added = {"hits": lookups.c.hits + row.excluded.hits, "misses": lookups.c.misses + row.excluded.misses}
        connection.execute(row.on_conflict_do_update(index_elements=[lookups.c.run], set_=added))
