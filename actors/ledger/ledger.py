"""The ledger: every candidate call, written before it is sent and completed after; one object per caller process."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from actors.ledger.database import BUSY_TIMEOUT_S
from actors.ledger.entry import CallEntry, CallPlace, LedgerError, Settled, request_hash
from actors.ledger.rows import Count, Operation, Withdraw, begin_of, settle_of
from actors.ledger.store import LedgerStore

__all__ = ["CallEntry", "CallPlace", "Ledger", "LedgerError", "Settled", "request_hash"]

_COUNT_EVERY_S = 1.0
_MOST_AT_ONCE = 256  # operations of a transaction: of thousands of calls at once, the first go out while others wait


class Ledger:
    """One process's ledger of one run; other processes may write to the same ledger, other runs too.

    What is written while a transaction is under way goes into the next one together, so that a disk's sync is
    shared by all calls that wait for it. No wait is longer than the database's own deadlines (`ledger_database`).
    """

    def __init__(self, store: LedgerStore, writer: ThreadPoolExecutor, reader: ThreadPoolExecutor) -> None:
        self._store = store
        self._writer, self._reader = writer, reader
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Operation, asyncio.Future[Settled | None]]] = []
        self._idle = asyncio.Event()  # nothing waits or is being written
        self._idle.set()
        self._hits = self._misses = 0  # look-ups not yet written
        self._count_later: asyncio.TimerHandle | None = None
        self._closed = False

    @classmethod
    async def open(cls, url: str, *, run: str, busy_timeout_s: float = BUSY_TIMEOUT_S, create: bool = True) -> Ledger:
        """Open a ledger for a run: a run folder or SQLite file, or a URL (`sqlite:///…`, `postgresql://…`).

        Makes the tables where there are none (`create`). `busy_timeout_s` is the deadline for another process's lock,
        and for a database to be back that went away in mid-run.

        Raises:
            LedgerError: it can't be opened, is not there, is no ledger, or is of a newer version.
        """
        writer = ThreadPoolExecutor(1, thread_name_prefix="ledger-writer")
        reader = ThreadPoolExecutor(1, thread_name_prefix="ledger-reader")
        try:
            loop = asyncio.get_running_loop()
            store = await loop.run_in_executor(writer, LedgerStore, url, run, busy_timeout_s, create)
        except BaseException:
            writer.shutdown(wait=False)
            raise
        return cls(store, writer, reader)

    async def begin(self, call: CallEntry) -> Settled | None:
        """Write a call before it is sent; what is returned from here survives a kill and a loss of power.

        Returns None where the call is to be sent, and settled after. A call whose place of this run has a reply
        to the same request (ok or refused) gets that one, and nothing is written. An open entry of the place, of
        a process that was killed, becomes this entry. Calls outside of episodes are always new. If this is
        cancelled, nothing stays of the entry, and it must not be settled.

        Raises:
            LedgerError: it could not be written; don't send the call.
        """
        operation = begin_of(call, self._store.run)
        try:
            return await self._submit(operation)
        except asyncio.CancelledError:
            if not self._closed:
                self._submit(Withdraw(call.id))
            raise

    async def settle(self, entry_id: str, settled: Settled) -> None:
        """Complete an entry; it is written even if this is cancelled.

        Raises:
            LedgerError: it could not be written, or no such entry is open.
        """
        await self._submit(settle_of(entry_id, settled))

    async def find(self, request_hash: str, place: CallPlace | None = None) -> Settled | None:
        """The reply (ok or refused) to a request: that of the place in this run, in another, or the latest of all.

        Counts as a hit or a miss of the run.

        Raises:
            LedgerError: the ledger can't be read.
        """
        return self._counted(await self._read(self._store.find, request_hash, place))

    async def recorded(self, request_hash: str, place: CallPlace, run: str | None = None) -> Settled | None:
        """What became of a call at its place, failures included, in `run` or else in the run that made it last; of
        calls that were made at no such place, the latest reply.

        Counts as a hit or a miss of this ledger's run.

        Raises:
            LedgerError: the ledger can't be read.
        """
        return self._counted(await self._read(self._store.recorded, request_hash, place, run))

    async def spent_usd(
        self, *, since: float | None = None, run: str | None = None, settled: bool = False
    ) -> dict[str, float]:
        """Dollars by card name: costs of settled calls and reservations of open ones.

        Args:
            since: calls begun since then, seconds since 1970; all if None.
            run: calls of this run; of every run in the ledger if None.
            settled: leave open ones out.

        Raises:
            LedgerError: the ledger can't be read.
        """
        spent: dict[str, float] = await self._read(self._store.spent_usd, since, run, settled)
        return spent

    async def spent_by_others_usd(self, since: float) -> float:
        """Dollars of all runs but this one for calls begun since then, reservations of open ones included.

        Raises:
            LedgerError: the ledger can't be read.
        """
        return float(await self._read(self._store.spent_by_others_usd, since))

    async def spent_by_step_usd(self) -> dict[tuple[str, int], float]:
        """Dollars of this run by card name and step, reservations of open calls included.

        Raises:
            LedgerError: the ledger can't be read.
        """
        spent: dict[tuple[str, int], float] = await self._read(self._store.spent_by_step_usd)
        return spent

    async def close(self) -> None:
        """Write what is waiting, then close the database; may be called again."""
        if self._closed:
            return
        if self._count_later is not None:
            self._count_later.cancel()
            self._count()
        self._closed = True
        await self._idle.wait()
        await self._loop.run_in_executor(self._writer, self._store.close)
        self._writer.shutdown(wait=False)
        self._reader.shutdown(wait=False)

    def _submit(self, operation: Operation) -> asyncio.Future[Settled | None]:
        if self._closed:
            raise LedgerError("the ledger is closed")
        future = self._loop.create_future()
        self._waiting.append((operation, future))
        if self._idle.is_set():
            self._idle.clear()
            self._loop.call_soon(self._write)  # once all that is ready to run now has had its turn
        return future

    def _write(self) -> None:
        batch, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
        written = self._loop.run_in_executor(self._writer, self._store.write, [operation for operation, _ in batch])
        written.add_done_callback(partial(self._deliver, [future for _, future in batch]))

    def _deliver(
        self,
        waiting: list[asyncio.Future[Settled | None]],
        written: asyncio.Future[list[Settled | LedgerError | None]],
    ) -> None:
        """Hand every call its outcome, or the error that all have in common, and write what came in meanwhile."""
        if self._waiting:
            self._write()
        else:
            self._idle.set()
        if written.cancelled():
            for future in waiting:
                future.cancel()
            return
        error = written.exception()
        outcomes = written.result() if error is None else [error] * len(waiting)
        for future, outcome in zip(waiting, outcomes, strict=True):
            if future.done():
                continue  # cancelled
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _counted(self, found: Settled | None) -> Settled | None:
        self._hits += found is not None
        self._misses += found is None
        if self._count_later is None and not self._closed:
            self._count_later = self._loop.call_later(_COUNT_EVERY_S, self._count)
        return found

    def _count(self) -> None:
        self._count_later = None
        hits, misses, self._hits, self._misses = self._hits, self._misses, 0, 0
        self._submit(Count(hits, misses))

    async def _read(self, function: Any, *args: Any) -> Any:
        if self._closed:
            raise LedgerError("the ledger is closed")
        return await self._loop.run_in_executor(self._reader, function, *args)
