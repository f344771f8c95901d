"""Outages: a provider that is gone for a while, and a caller that is killed in mid-run."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from functools import partial

from benchmarks.benches.caller.client import Ledgers, open_caller, request
from benchmarks.benches.caller.money import booked_usd
from benchmarks.benches.caller.provider import Provider
from rewards.transcript import CallStatus, RouteCall

_WORKERS = 16  # per provider
_LATENCY_S = 0.05
_PAUSE_S = 0.02  # before a call after one that failed, as an episode that starts anew


@dataclass(slots=True)
class Outage:
    """What calls to two providers came to while one of them was gone."""

    opened_s: float  # from the end of the provider to the first call that was refused at once, unsent
    closed_s: float  # from its return to the first call that it answered
    others_ok_share: float  # of the other provider's calls during the outage
    others_rate: float  # its calls per second during the outage, over those before


@dataclass(slots=True)
class _Calls:
    ended: list[tuple[float, RouteCall]] = field(default_factory=list)

    def between(self, start: float, end: float) -> list[RouteCall]:
        return [call for at, call in self.ended if start <= at < end]

    def first(self, after: float, *, unsent: bool) -> float:
        """Seconds until a call ended ok, or was refused without a request; infinite where none did."""
        for at, call in self.ended:
            refused = call.status is not CallStatus.OK and call.attempts == 0
            if at >= after and (refused if unsent else call.status is CallStatus.OK):
                return at - after
        return float("inf")


async def outage(
    gone: Provider, other: Provider, ledgers: Ledgers, run: str, *, before_s: float, down_s: float, after_s: float
) -> Outage:
    """Ask two providers in turn, one of which goes away and comes back."""
    for provider in (gone, other):
        await provider.set(median_s=_LATENCY_S)
    seen = {"gone": _Calls(), "other": _Calls()}
    done = False

    async def work(model: str, worker: int) -> None:
        number = 0
        while not done:
            number += 1
            call = await caller.ask(request(number * _WORKERS + worker, model))
            seen[model].ended.append((time.monotonic(), call))
            if call.status is not CallStatus.OK:
                await asyncio.sleep(_PAUSE_S)

    async with (
        open_caller([gone.card("gone"), other.card("other")], ledgers, run) as caller,
        asyncio.TaskGroup() as tasks,
    ):
        for worker in range(_WORKERS):
            for model in seen:
                tasks.create_task(work(model, worker))
        started = time.monotonic()
        await asyncio.sleep(before_s)
        await gone.down()
        went = time.monotonic()
        await asyncio.sleep(down_s)
        await gone.up()
        came = time.monotonic()
        await asyncio.sleep(after_s)
        done = True
    during, quiet = seen["other"].between(went, came), seen["other"].between(started, went)
    return Outage(
        opened_s=seen["gone"].first(went, unsent=True),
        closed_s=seen["gone"].first(came, unsent=False),
        others_ok_share=sum(call.status is CallStatus.OK for call in during) / max(1, len(during)),
        others_rate=(len(during) / (came - went)) / (len(quiet) / (went - started)),
    )


@dataclass(frozen=True, slots=True)
class Kill:
    """What calls through a caller came to that was killed in mid-run."""

    ok_share: float
    booked: float  # what the ledger booked, in calls at their price
    calls: int


async def kill(provider: Provider, ledgers: Ledgers, run: str, calls: int) -> Kill:
    """Send calls through a real Ray actor, and kill its process with -9 while they are under way."""
    import ray

    from actors.pool.pool import CandidatePool
    from actors.pool.settings import PoolSettings

    await provider.set(median_s=0.5, sigma=0.5)
    settings = PoolSettings.model_validate({"ledger": "record", "max_in_flight": calls // 2})
    start = partial(CandidatePool.start, [provider.card()], settings, ledger_url=ledgers.of(run), run=run)
    pool = await asyncio.to_thread(start)
    try:
        [caller] = pool.callers
        pid = await asyncio.to_thread(ray.get, caller.__ray_call__.remote(_pid), timeout=60)
        asked = asyncio.gather(*(pool.ask(request(1000 + number)) for number in range(calls)))
        await asyncio.sleep(0.6)  # some have ended, some are under way, some wait
        os.kill(pid, signal.SIGKILL)
        answered = await asked
    finally:
        pool.close()
    good = [call for call in answered if call.status is CallStatus.OK]
    price = sum(call.cost_usd for call in good) / max(1, len(good))  # all questions are equally long
    booked = await booked_usd(ledgers, run)
    return Kill(len(good) / calls, booked / price if good else float("inf"), calls)


def _pid(actor: object) -> int:
    return os.getpid()
