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
_MOST_AT_ONCE = 256  # operations per transaction: of thousands of calls at once, the first are sent while others wait


class Ledger:
    """One process's access to a ledger, for one run; other processes and runs may write to the same ledger.

    Operations that arrive during a transaction go into the next one together, so that all of them share one sync of
    the disk. No wait is longer than the database's own deadlines (`actors/ledger/database.py`).
    """

    def __init__(self, store: LedgerStore, writer: ThreadPoolExecutor, reader: ThreadPoolExecutor) -> None:
        self._store = store
        self._writer, self._reader = writer, reader
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Operation, asyncio.Future[Settled | None]]] = []
        self._idle = asyncio.Event()  # set while no operation waits or is being written
        self._idle.set()
        self._hits = self._misses = 0  # look-ups not yet written
        self._count_later: asyncio.TimerHandle | None = None
        self._closed = False

    @classmethod
    async def open(cls, url: str, *, run: str, busy_timeout_s: float = BUSY_TIMEOUT_S, create: bool = True) -> Ledger:
        """Open a ledger for a run: a run folder or SQLite file, or a URL (`sqlite:///…`, `postgresql://…`).

        Makes missing tables if `create`. `busy_timeout_s` is the deadline, in seconds, for another process to release
        its lock, and for a lost database to come back.

        Raises:
            LedgerError: the ledger can't be opened, does not exist, is not a ledger, or has a newer version.
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
        """Write a call before it is sent; once this returns, the entry survives a kill and a power loss.

        Returns None if the call must be sent, and settled afterwards. If this run already has a reply (ok or refused)
        to the same request at the same place, returns that reply and writes nothing. An open entry that a killed
        process left at this place becomes this entry. Calls outside episodes are always new. If this coroutine is
        cancelled, its entry is removed and must not be settled.

        Raises:
            LedgerError: the call could not be written; don't send it.
        """
        operation = begin_of(call, self._store.run)
        try:
            return await self._submit(operation)
        except asyncio.CancelledError:
            if not self._closed:
                self._submit(Withdraw(call.id))
            raise

    async def settle(self, entry_id: str, settled: Settled) -> None:
        """Complete an entry. The outcome is written even if this coroutine is cancelled.

        Raises:
            LedgerError: the outcome could not be written, or no such entry is open.
        """
        await self._submit(settle_of(entry_id, settled))

    async def find(self, request_hash: str, place: CallPlace | None = None) -> Settled | None:
        """The reply (ok or refused) to a request: at `place` in this run, else in another run, else the latest of all.

        Returns None if there is none. Counts as a hit or a miss of this ledger's run.

        Raises:
            LedgerError: the ledger can't be read.
        """
        return self._counted(await self._read(self._store.find, request_hash, place))

    async def recorded(self, request_hash: str, place: CallPlace, run: str | None = None) -> Settled | None:
        """The outcome of a call at its place, failures included: in `run` or, if None, in the run that made it last. If
        no call was made at that place, the latest reply to the request.

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
            since: count calls begun since this time, in seconds since 1970; all if None.
            run: count calls of this run; of every run in the ledger if None.
            settled: leave open calls out.

        Raises:
            LedgerError: the ledger can't be read.
        """
        spent: dict[str, float] = await self._read(self._store.spent_usd, since, run, settled)
        return spent

    async def spent_by_others_usd(self, since: float) -> float:
        """Dollars of all other runs, for calls begun since this time (seconds since 1970), reservations included.

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
        """Write the waiting operations, then close the database; further calls do nothing."""
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
            self._loop.call_soon(self._write)  # later, so that all callbacks that are ready now join the batch
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
        """Start to write the operations that came meanwhile; give each call its outcome, or the whole batch's error."""
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
