"""The purse: enforces the spending caps of run, step, day and provider; no request is sent without its grant."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from actors.pool.settings import PoolSettings

if TYPE_CHECKING:
    from actors.ledger.ledger import Ledger

_NANO = 1_000_000_000  # money is summed in billionths of a dollar, because sums of integers are exact
_DAY_S = 86_400.0
_REREAD_S = 5.0  # between two readings of the amount that other runs have spent today

Account = tuple[str, str]  # a cap's setting, and the step or provider that it applies to
_DAY: Account = ("cap_usd_per_day", "")


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that may be spent, in dollars; None for no cap."""

    run: float | None = None
    step: float | None = None
    day: float | None = None  # of UTC
    provider: Mapping[str, float] = field(default_factory=dict)  # by endpoint host or card name

    @property
    def any(self) -> bool:
        return not (self.run is None and self.step is None and self.day is None and not self.provider)


def caps_of(settings: PoolSettings) -> Caps:
    """The caps of a pool's settings."""
    return Caps(
        run=settings.cap_usd_per_run,
        step=settings.cap_usd_per_step,
        day=settings.cap_usd_per_day,
        provider=settings.cap_usd_per_provider,
    )


@dataclass(slots=True)  # not frozen: a frozen one takes three times as long to make, and every request makes one
class Charge:
    """A request that must be paid for."""

    id: str  # unique among the requests of all callers
    caller: str  # the caller that asks; see `Purse.forfeit`
    card: str
    host: str
    step: int  # 0 for none
    worst_usd: float  # the most that it can cost


class Funds(Protocol):
    """A purse, or the access to a purse in another process."""

    async def reserve(self, charge: Charge) -> str: ...

    def settle(self, charge_id: str, usd: float) -> None: ...

    async def forfeit(self, caller: str) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class _Book:
    """One cap and what counts against it, in nano-dollars."""

    cap: int
    spent: int = 0
    reserved: int = 0
    waiting: deque[_Waiter] = field(default_factory=deque)


@dataclass(slots=True)
class _Waiter:
    charge: Charge
    verdict: asyncio.Future[str]


class Purse:
    """Reserves the worst price of each request before it is sent, and frees the part that the request did not cost.

    A request that fits under a cap only after others have settled waits for them, first come, first served. A request
    that does not fit even if all reservations are freed is refused. So a cap is never exceeded, and every request that
    it can pay for is served. One caller uses a purse directly; several callers share one that is a Ray actor.

    The day's cap covers all runs of a ledger, and each run has its own purse. A purse reads every five seconds what the
    others have spent, and counts their reservations as spent. So parallel runs can together exceed the cap, but only by
    the amount that they were granted in that time.
    """

    def __init__(
        self, caps: Caps, ledger_url: str | None = None, run: str = "", hosts: Mapping[str, str] | None = None
    ) -> None:
        """`ledger_url` and `run` say where to read earlier spending; `hosts` is the endpoint's host by card name."""
        self._caps = caps
        self._ledger_url = ledger_url
        self._run = run
        self._hosts = dict(hosts or {})
        self._books: dict[Account, _Book] = {}
        self._books_by_kind: dict[tuple[str, str, int], dict[Account, _Book]] = {}
        self._granted: dict[str, tuple[Charge, tuple[_Book, ...]]] = {}
        self._opening: asyncio.Lock | None = None  # made in the loop that uses it
        self._opened = False
        self._ledger: Ledger | None = None  # kept open if there is a cap on the day
        self._midnight = 0.0  # start of the day, seconds since 1970
        self._day_ends_s = math.inf
        self._others = 0  # nano-dollars that other runs have spent today
        self._reread_s = math.inf

    async def open(self) -> None:
        """Read from the ledger what was already spent in this run and on this day; further calls do nothing.

        Raises:
            LedgerError: the ledger can't be read.
        """
        if self._opened:
            return
        self._opening = self._opening or asyncio.Lock()
        async with self._opening:
            if not self._opened:
                await self._read_ledger()
                self._opened = True

    async def reserve(self, charge: Charge) -> str:
        """Wait until the request is granted, and return ""; or return why it is refused: cap, sums and remedy.

        The deadline is up to the caller. Every grant must be settled.

        Raises:
            LedgerError: the ledger can't be read.
        """
        if not self._opened:
            await self.open()
        now = time.monotonic()
        if now >= self._day_ends_s:
            self._turn_day(now)
        if now >= self._reread_s:
            await self._read_others(now)
        books = self._books_of(charge)
        worst = _nano(charge.worst_usd)
        for account, book in books.items():
            if book.spent + worst > book.cap:
                return self._refusal(account, book, charge)
        blocked = next((b for b in books.values() if b.waiting or b.spent + b.reserved + worst > b.cap), None)
        if blocked is None:
            self._grant(charge, tuple(books.values()))
            return ""
        return await self._wait(charge, blocked)

    def settle(self, charge_id: str, usd: float) -> None:
        """Settle a granted request that has cost `usd` dollars, 0 if the provider bills nothing. Unknown requests are
        ignored: a restarted purse has read them from the ledger."""
        charge, books = self._granted.pop(charge_id, (None, ()))
        if charge is None:
            return
        worst, spent = _nano(charge.worst_usd), _nano(usd)
        for book in books:
            book.reserved -= worst
            book.spent += spent
        for book in books:
            if book.waiting:
                self._serve(book)

    async def forfeit(self, caller: str) -> None:
        """Give up the requests of a caller that died or restarts: its reservations count as spent, because the provider
        may bill them, and its waiting requests are refused."""
        for book in self._books.values():
            for waiter in book.waiting:
                if waiter.charge.caller == caller and not waiter.verdict.done():
                    waiter.verdict.set_result("the caller that asked is gone")
        for charge, _ in [entry for entry in self._granted.values() if entry[0].caller == caller]:
            self.settle(charge.id, charge.worst_usd)
        for book in self._books.values():
            self._serve(book)

    async def close(self) -> None:
        """Close the ledger; may be called again."""
        ledger, self._ledger = self._ledger, None
        self._reread_s = math.inf
        if ledger is not None:
            await ledger.close()

    def totals(self) -> dict[str, dict[str, float]]:
        """For each cap its `cap`, `spent` and `reserved`, in dollars."""
        return {
            " ".join(filter(None, account)): {
                "cap": book.cap / _NANO,
                "spent": book.spent / _NANO,
                "reserved": book.reserved / _NANO,
            }
            for account, book in self._books.items()
        }

    async def _wait(self, charge: Charge, book: _Book) -> str:
        waiter = _Waiter(charge, asyncio.get_running_loop().create_future())
        book.waiting.append(waiter)
        try:
            return await waiter.verdict
        except asyncio.CancelledError:
            if waiter.verdict.done() and not waiter.verdict.cancelled() and not waiter.verdict.result():
                self.settle(charge.id, 0.0)  # granted just before the cancellation
            else:
                self._serve(book)  # those behind it may be able to go now
            raise

    def _serve(self, book: _Book) -> None:
        """Decide the requests that wait at a cap, in their order, up to the first that must wait longer."""
        while book.waiting:
            waiter = book.waiting[0]
            if not waiter.verdict.done():
                books = self._books_of(waiter.charge)
                worst = _nano(waiter.charge.worst_usd)
                full = next((item for item in books.items() if item[1].spent + worst > item[1].cap), None)
                blocked = next((b for b in books.values() if b.spent + b.reserved + worst > b.cap), None)
                if full is not None:
                    waiter.verdict.set_result(self._refusal(*full, waiter.charge))
                elif blocked is book:
                    return
                elif blocked is not None:
                    blocked.waiting.append(waiter)
                else:
                    self._grant(waiter.charge, tuple(books.values()))
                    waiter.verdict.set_result("")
            book.waiting.popleft()

    def _grant(self, charge: Charge, books: tuple[_Book, ...]) -> None:
        worst = _nano(charge.worst_usd)
        for book in books:
            book.reserved += worst
        self._granted[charge.id] = (charge, books)

    def _books_of(self, charge: Charge) -> dict[Account, _Book]:
        """The caps that the request counts against."""
        caps = self._caps
        kind = (charge.host, charge.card, 0 if caps.step is None else charge.step)
        found = self._books_by_kind.get(kind)
        if found is not None:
            return found
        accounts: list[tuple[Account, float | None]] = [
            (("cap_usd_per_run", ""), caps.run),
            (("cap_usd_per_day", ""), caps.day),
        ]
        if charge.step:
            accounts.append((("cap_usd_per_step", str(charge.step)), caps.step))
        accounts += [(("cap_usd_per_provider", name), caps.provider.get(name)) for name in (charge.host, charge.card)]
        books: dict[Account, _Book] = {}
        for account, cap in accounts:
            if cap is not None:
                books[account] = self._books.setdefault(account, _Book(math.floor(cap * _NANO + 0.5)))
        self._books_by_kind[kind] = books
        return books

    def _refusal(self, account: Account, book: _Book, charge: Charge) -> str:
        setting, of = account
        where = {"cap_usd_per_step": f" in step {of}", "cap_usd_per_provider": f" at {of}"}.get(setting, "")
        return (
            f"{charge.worst_usd:.6f} USD, the most that this call can cost, would break pool.{setting}="
            f"{book.cap / _NANO:g}: {book.spent / _NANO:.6f} USD are spent{where}; raise the cap to go on"
        )

    def _turn_day(self, now: float) -> None:
        """Restart the day's sum at midnight. Counts on the monotonic clock, because the wall clock may be set."""
        days = 1 + (now - self._day_ends_s) // _DAY_S
        self._day_ends_s += _DAY_S * days
        self._midnight += _DAY_S * days
        day = self._books.get(_DAY)
        if day is not None:
            day.spent = self._others = 0
            self._serve(day)

    async def _read_others(self, now: float) -> None:
        """Read what other runs have spent today; requests that come meanwhile wait for it."""
        assert self._opening is not None, "open comes first"
        async with self._opening:
            if self._ledger is None or now < self._reread_s:
                return
            midnight = self._midnight
            others = _nano(await self._ledger.spent_by_others_usd(midnight))
            self._reread_s = time.monotonic() + _REREAD_S
            if midnight == self._midnight:
                day = self._day()
                day.spent += others - self._others
                self._others = others
                self._serve(day)

    def _day(self) -> _Book:
        return self._books_of(Charge("", "", "", "", 0, 0.0))[_DAY]

    async def _read_ledger(self) -> None:
        caps, wall = self._caps, time.time()
        self._midnight = wall - wall % _DAY_S
        self._day_ends_s = time.monotonic() + self._midnight + _DAY_S - wall
        if self._ledger_url is None or not caps.any:
            return
        from actors.ledger.ledger import Ledger  # here, because a purse without a ledger does not need SQLAlchemy

        ledger = await Ledger.open(self._ledger_url, run=self._run)
        try:
            of_run = await ledger.spent_by_step_usd()
            if caps.day is not None:
                self._others = _nano(await ledger.spent_by_others_usd(self._midnight))
                of_day = await ledger.spent_usd(since=self._midnight, run=self._run)
        except BaseException:
            await ledger.close()
            raise
        for (card, step), usd in of_run.items():
            charge = Charge("", "", card, self._hosts.get(card, ""), step, usd)
            for account, book in self._books_of(charge).items():
                if account != _DAY:
                    book.spent += _nano(usd)
        if caps.day is None:
            await ledger.close()
        else:
            self._day().spent += self._others + sum(map(_nano, of_day.values()))
            self._ledger, self._reread_s = ledger, time.monotonic() + _REREAD_S


def _nano(usd: float) -> int:
    return math.ceil(usd * _NANO - 1e-6)  # rounded up, so that the cap holds; 1e-6 allows for errors of floats
