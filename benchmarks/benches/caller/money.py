"""Money: a cache that pays once, a cap that many calls compete for, and books that agree with the provider's."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, replace

from actors.ledger.ledger import Ledger
from benchmarks.benches.caller.client import QUESTION, Ledgers, ask_all, open_caller, request
from benchmarks.benches.caller.provider import CallerBenchError, Provider
from rewards.transcript import CallStatus, RouteCall

# Faults of the misbehaving provider, as shares of requests. A 429 asks for a short pause.
FAULTS = {
    "rate_limit": 0.20,
    "server_error": 0.10,
    "hang": 0.05,
    "cut_off": 0.05,
    "invalid_json": 0.02,
    "wrong_usage": 0.02,
}
_DEADLINE_S = 60.0
# Four of nine attempts fail, so a call needs nine attempts to fail less often than once in a thousand. If only hanging
# calls are left at the end, the breaker may open because it takes the provider for down; calls then wait for it.
PATIENCE = {
    "max_attempts": 16,
    "backoff_s": 0.02,
    "first_byte_timeout_s": 1.0,
    "total_timeout_s": _DEADLINE_S,
    "when_down": "wait",
}
_FIRST = 32  # calls before the faults


@dataclass(frozen=True, slots=True)
class CacheCost:
    """Times and costs of repeated questions."""

    hits_s: list[float]  # seconds of each call that the cache answered
    paid: int  # number of calls that the provider billed, for identical calls sent at once
    booked_usd: float  # the ledger's total for these calls, divided by the provider's bill


async def cache(provider: Provider, ledgers: Ledgers, run: str, identical: int, hits: int) -> CacheCost:
    """Send `identical` equal calls at once, then `hits` more, one after another."""
    await provider.set(median_s=0.05)
    asked = replace(request(0), query=QUESTION.format(run))  # a new question in each run, which no cache holds
    async with open_caller([provider.card()], ledgers, run, ledger="cache") as caller:
        answered = await asyncio.gather(*(caller.ask(asked) for _ in range(identical)))
        _all_ok(answered)
        books = await provider.books()
        booked = await booked_usd(ledgers, run)
        seconds = []
        for _ in range(hits):
            started = time.perf_counter()
            _all_ok([await caller.ask(asked)])
            seconds.append(time.perf_counter() - started)
        paid = books["billed"] + (await provider.books())["requests"] - books["requests"]
    return CacheCost(seconds, paid, booked / books["usd"])


@dataclass(frozen=True, slots=True)
class Race:
    """The results of many calls that compete for the run's cap."""

    served: int  # calls that ended ok
    over_budget: int
    spent_share: float  # the provider's bill divided by the cap
    booked_share: float  # the ledger's total divided by the cap


async def cap(provider: Provider, ledgers: Ledgers, run: str, calls: int, paid_for: int) -> Race:
    """Send `calls` calls at once under a cap that pays for exactly `paid_for` of them at their real price."""
    await provider.set(median_s=0.02, sigma=0.5)
    async with open_caller([provider.card()], ledgers, f"{run}-price", max_in_flight=1) as caller:
        widest = calls - 1  # no question is longer than the last
        _all_ok(await ask_all(caller, 1, 1, first=widest))
    price = (await provider.books())["usd"]
    await provider.set(median_s=0.02, sigma=0.5)
    cap_usd = price * paid_for * (1 + 1e-9)  # room for the rounding of a sum of floats
    async with open_caller([provider.card()], ledgers, run, cap_usd_per_run=cap_usd) as caller:
        answered = await ask_all(caller, calls, calls)
    by_status = Counter(call.status for call in answered)
    spent = (await provider.books())["usd"]
    booked = await booked_usd(ledgers, run)
    return Race(by_status[CallStatus.OK], by_status[CallStatus.OVER_BUDGET], spent / cap_usd, booked / cap_usd)


@dataclass(frozen=True, slots=True)
class Storm:
    """The results of calls to a misbehaving provider."""

    ok_share: float  # share of calls that ended ok within their deadline
    off_usd: float  # the ledger's total minus the provider's bill
    billed_usd: float
    attempts: float  # requests per call
    errors: Counter[str]


async def faults(provider: Provider, ledgers: Ledgers, run: str, calls: int, seed: int) -> Storm:
    """Send calls to a misbehaving provider, which would answer each of them after enough attempts.

    The first calls go to it without faults. From these the caller learns to estimate the price of a reply that it did
    not receive whole, by the question's length and recent calls. Questions have many lengths, but all replies have the
    same length, because nobody can know the exact cost of a reply that never arrived.
    """
    await provider.set(median_s=0.05, sigma=0.5)
    async with open_caller([provider.card()], ledgers, run, **PATIENCE) as caller:
        _all_ok(await ask_all(caller, _FIRST, _FIRST, first=calls, more=_more))
        first = await provider.books()
        await provider.set(median_s=0.05, sigma=0.5, seed=seed, retry_after_s=0.05, **FAULTS)
        answered = await ask_all(caller, calls, 256, more=_more)
    books = await provider.books()
    billed = first["usd"] + books["usd"]
    in_time = [c for c in answered if c.status is CallStatus.OK and c.latency_s <= _DEADLINE_S]
    return Storm(
        ok_share=len(in_time) / calls,
        off_usd=await booked_usd(ledgers, run) - billed,
        billed_usd=billed,
        attempts=books["requests"] / calls,
        errors=Counter(call.error for call in answered if call.status is not CallStatus.OK),
    )


def _more(number: int) -> str:
    """Text that makes a question up to six times as long; empty for some numbers."""
    return " It lies by a lake." * (number * 7 % 13)


async def booked_usd(ledgers: Ledgers, run: str) -> float:
    """The total of a run's ledger in USD, read through a new connection."""
    ledger = await Ledger.open(ledgers.of(run), run=run)
    try:
        return sum((await ledger.spent_usd(run=run)).values())
    finally:
        await ledger.close()


def _all_ok(calls: list[RouteCall]) -> None:
    for call in calls:
        if call.status is not CallStatus.OK:
            raise CallerBenchError(f"a call to a provider in good order ended as {call.status}: {call.error}")
