"""Money: a cache that pays once, a cap that many calls race for, and books that agree with the provider's."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, replace

from actors.ledger.ledger import Ledger
from benchmarks.benches.caller.client import QUESTION, Ledgers, ask_all, open_caller, request
from benchmarks.benches.caller.provider import CallerBenchError, Provider
from rewards.transcript import CallStatus, RouteCall

# The provider that misbehaves, by the share of requests. A 429 asks for a short pause.
FAULTS = {
    "rate_limit": 0.20,
    "server_error": 0.10,
    "hang": 0.05,
    "cut_off": 0.05,
    "invalid_json": 0.02,
    "wrong_usage": 0.02,
}
_DEADLINE_S = 60.0
# Four attempts in nine go wrong, so a call needs nine attempts to be lost less often than once in a thousand. And
# where hangs alone are left at the end, the breaker may take the provider for down: calls then wait for it.
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
    """What repeated questions came to."""

    hits_s: list[float]  # seconds of each call that the ledger answered
    paid: int  # calls that the provider billed for identical calls sent at once
    booked_usd: float  # for the same, by the ledger, over the price of one


async def cache(provider: Provider, ledgers: Ledgers, run: str, identical: int, hits: int) -> CacheCost:
    """Send identical calls at once, then one by one."""
    await provider.set(median_s=0.05)
    asked = replace(request(0), query=QUESTION.format(run))  # that no run before has asked
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
    """What a race for the run's cap came to."""

    served: int  # calls that ended ok
    over_budget: int
    spent_share: float  # what the provider billed, over the cap
    booked_share: float  # what the ledger says, over the cap


async def cap(provider: Provider, ledgers: Ledgers, run: str, calls: int, paid_for: int) -> Race:
    """Send more calls at once than the cap pays for: exactly `paid_for` at their real price."""
    await provider.set(median_s=0.02, sigma=0.5)
    async with open_caller([provider.card()], ledgers, f"{run}-price", max_in_flight=1) as caller:
        widest = calls - 1  # no question is longer than the last
        _all_ok(await ask_all(caller, 1, 1, first=widest))
    price = (await provider.books())["usd"]
    await provider.set(median_s=0.02, sigma=0.5)
    cap_usd = price * paid_for * (1 + 1e-9)  # sums of floats
    async with open_caller([provider.card()], ledgers, run, cap_usd_per_run=cap_usd) as caller:
        answered = await ask_all(caller, calls, calls)
    by_status = Counter(call.status for call in answered)
    spent = (await provider.books())["usd"]
    booked = await booked_usd(ledgers, run)
    return Race(by_status[CallStatus.OK], by_status[CallStatus.OVER_BUDGET], spent / cap_usd, booked / cap_usd)


@dataclass(frozen=True, slots=True)
class Storm:
    """What calls to a provider that misbehaves came to."""

    ok_share: float  # that ended ok within their deadline
    off_usd: float  # the ledger's total less the provider's
    billed_usd: float
    attempts: float  # requests per call
    errors: Counter[str]


async def faults(provider: Provider, ledgers: Ledgers, run: str, calls: int, seed: int) -> Storm:
    """Send calls to a provider at its worst, all of which it would answer in the end.

    Some go to it in good order first: a caller prices what it can't see, as a reply cut off, by its question's length
    and recent calls. Questions are of many lengths; replies are of one, for what a reply that never came would have
    taken nobody can know to the cent.
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
    """What makes a question longer: by nothing, or up to six times as long."""
    return " It lies by a lake." * (number * 7 % 13)


async def booked_usd(ledgers: Ledgers, run: str) -> float:
    """What the ledger of a run comes to, read as another process would."""
    ledger = await Ledger.open(ledgers.of(run), run=run)
    try:
        return sum((await ledger.spent_usd(run=run)).values())
    finally:
        await ledger.close()


def _all_ok(calls: list[RouteCall]) -> None:
    for call in calls:
        if call.status is not CallStatus.OK:
            raise CallerBenchError(f"a call to a provider in good order ended as {call.status}: {call.error}")
