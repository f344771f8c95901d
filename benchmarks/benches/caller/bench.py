"""The bench of the candidate callers: what is measured, how often, and against which targets.

The provider is a process of its own on loopback, the client is one process; on two cores each has one. Set
ROUTER_R1_BENCH_LEDGER to a PostgreSQL URL to run the same with the ledger there.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import statistics
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.benches.caller import money, outage, speed
from benchmarks.benches.caller.client import Ledgers, ledger_url
from benchmarks.benches.caller.provider import Provider, start_provider
from benchmarks.benches.figures import Figure, at_least, at_most

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. The defaults are the figures' own; tests take less."""

    repetitions: int = 3
    calls: int = 8000  # of the bare loop and of ours, each repetition
    litellm_calls: int = 1000
    slow_calls: int = 2560  # of ours at the threads' latency
    threads_calls: int = 100
    crowd: int = 2000
    hits: int = 500
    race: int = 10_000
    paid_for: int = 1000
    storm: int = 3000
    before_s: float = 4.0
    down_s: float = 20.0
    after_s: float = 6.0
    kill: int = 200
    rivals: bool = True  # LiteLLM and the threads
    actor: bool = True  # the caller as a Ray actor


def run() -> list[Figure]:
    """Measure everything; about eight minutes."""
    return measure(Size())


def measure(size: Size, ledger: str | None = None) -> list[Figure]:
    """Measure at a size; `ledger` is the URL of a database, in place of a SQLite file for each run."""
    _allow_connections()
    with tempfile.TemporaryDirectory(prefix="bench-caller-") as folder:
        return asyncio.run(_measure(size, Ledgers(Path(folder), ledger or ledger_url())))


async def _measure(size: Size, ledgers: Ledgers) -> list[Figure]:
    async with start_provider() as provider, start_provider() as other:
        found = [
            *await _speed(size, provider, ledgers),
            *await _crowd(size, provider, ledgers),
            *await _money(size, provider, ledgers),
            *await _outage(size, provider, other, ledgers),
        ]
        if size.actor:
            found += await _kill(size, provider, ledgers)
    return found


async def _speed(size: Size, provider: Provider, ledgers: Ledgers) -> list[Figure]:
    await provider.set()
    bare, ours, litellm = [], [], []
    python = await speed.litellm_python() if size.rivals else None
    for number in range(size.repetitions):  # turn about, so that a slow minute of the machine meets all of them
        logger.info("calls per second: repetition %d of %d", number + 1, size.repetitions)
        bare.append(await speed.bare_rate(provider, size.calls))
        ours.append(await speed.product_rate(provider, ledgers, _name("speed"), size.calls))
        if python is not None:
            litellm.append(await speed.litellm_rate(python, provider, size.litellm_calls))
    found = [
        _seen(f"calls per second, bare aiohttp loop, {speed.IN_FLIGHT} in flight", bare),
        _seen("calls per second, ours, ledger in record", ours),
        at_least("ours over the bare loop", _ratios(ours, bare), "ratio", 0.5),
    ]
    if litellm:
        found.append(_seen("calls per second, LiteLLM's Router", litellm))
        found.append(at_least("ours over LiteLLM's Router", _ratios(ours, litellm), "ratio", 10))
    if not size.rivals:
        return found
    return [*found, *await _threads(size, provider, ledgers)]


async def _threads(size: Size, provider: Provider, ledgers: Ledgers) -> list[Figure]:
    await provider.set(median_s=speed.THREADS_LATENCY_S)
    slow = await _repeat(size, lambda n: speed.product_rate(provider, ledgers, _name("slow"), size.slow_calls))
    threads = await _repeat(size, lambda n: speed.threads_rate(provider, size.threads_calls))
    latency = f"{speed.THREADS_LATENCY_S:g} s latency"
    return [
        _seen(f"calls per second, ours, {latency}", slow),
        _seen(f"calls per second, {speed.THREADS} threads with openai, {latency}", threads),
        at_least("ours over the threads", _ratios(slow, threads), "ratio", 10),
    ]


async def _crowd(size: Size, provider: Provider, ledgers: Ledgers) -> list[Figure]:
    logger.info("%d calls in flight", size.crowd)
    crowds = await _repeat(size, lambda n: speed.crowd(provider, ledgers, _name("crowd"), size.crowd, seed=n))
    return [
        at_most(
            f"{size.crowd} in flight: wall time over the slowest call's", [c.stretch for c in crowds], "ratio", 1.05
        ),
        at_most(f"{size.crowd} in flight: resident memory", [c.peak_mib for c in crowds], "MiB", 400),
    ]


async def _money(size: Size, provider: Provider, ledgers: Ledgers) -> list[Figure]:
    logger.info("cache, caps and faults")
    caches = await _repeat(size, lambda n: money.cache(provider, ledgers, _name("cache"), 100, size.hits))
    races = await _repeat(size, lambda n: money.cap(provider, ledgers, _name("cap"), size.race, size.paid_for))
    storms = await _repeat(size, lambda n: money.faults(provider, ledgers, _name("faults"), size.storm, seed=n))
    for storm in storms:
        logger.info("faults: %.2f requests a call; lost: %s", storm.attempts, dict(storm.errors.most_common(3)))
    race = f"{size.race} calls race for a cap that pays for {size.paid_for}"
    return [
        at_most("cache hit", [1e3 * statistics.median(c.hits_s) for c in caches], "ms", 1),
        at_most("100 identical calls at once: billed", [c.paid for c in caches], "calls", 1),
        at_most("100 identical calls at once: booked", [c.booked_usd for c in caches], "calls", 1 + 1e-9),
        _worst(f"{race}: billed over the cap", [r.spent_share for r in races], "ratio", 1.0),
        _worst(f"{race}: booked over the cap", [r.booked_share for r in races], "ratio", 1.0),
        at_least(f"{race}: served", [r.served for r in races], "calls", 0.99 * size.paid_for),
        at_least("faults: calls that end ok in time", [s.ok_share for s in storms], "share", 0.995),
        _worst("faults: ledger off the provider's bill", [abs(s.off_usd) for s in storms], "USD", 0.005),
        _seen("faults: the provider's bill", [s.billed_usd for s in storms], "USD"),
    ]


async def _outage(size: Size, provider: Provider, other: Provider, ledgers: Ledgers) -> list[Figure]:
    logger.info("a provider is down for %g s", size.down_s)
    times = {"before_s": size.before_s, "down_s": size.down_s, "after_s": size.after_s}
    outages = await _repeat(size, lambda n: outage.outage(provider, other, ledgers, _name("outage"), **times))
    return [
        at_most("outage: until the breaker opens", [o.opened_s for o in outages], "s", 2),
        at_most("outage: from recovery until it closes", [o.closed_s for o in outages], "s", 5),
        at_least("outage: the other provider's calls that end ok", [o.others_ok_share for o in outages], "share", 1),
        at_least("outage: the other provider's rate over that before", [o.others_rate for o in outages], "ratio", 0.9),
    ]


async def _kill(size: Size, provider: Provider, ledgers: Ledgers) -> list[Figure]:
    logger.info("kill -9 of a caller")
    with _ray():
        kills = await _repeat(size, lambda n: outage.kill(provider, ledgers, _name("kill"), size.kill))
    return [
        at_least("kill -9 of a caller: calls that end ok", [k.ok_share for k in kills], "share", 1),
        _worst("kill -9 of a caller: booked over asked", [k.booked / k.calls for k in kills], "ratio", 1 + 1e-9),
    ]


async def _repeat(size: Size, once: Callable[[int], Awaitable[_T]]) -> list[_T]:
    return [await once(number) for number in range(size.repetitions)]


def _name(row: str) -> str:
    """A run of its own, also in a database that has others."""
    return f"bench-{row}-{uuid.uuid4().hex[:8]}"


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def _seen(figure: str, values: Sequence[float], unit: str = "calls/s") -> Figure:
    return Figure(figure, statistics.median(values), unit, "", None, (min(values), max(values)))


def _worst(figure: str, values: Sequence[float], unit: str, limit: float) -> Figure:
    """A bound that every repetition must keep."""
    worst = max(values)
    return Figure(figure, worst, unit, f"<= {limit:g}, always", worst <= limit, (min(values), worst))


def _allow_connections() -> None:
    """Thousands of calls are thousands of open sockets."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def _ray() -> Iterator[None]:
    """A Ray of our own; one that runs already is used as it is."""
    import ray

    from actors.ray_start import init_own_ray

    if ray.is_initialized():
        yield
        return
    init_own_ray(num_cpus=2)
    try:
        yield
    finally:
        ray.shutdown()
