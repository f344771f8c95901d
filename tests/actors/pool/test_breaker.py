"""The breaker: opens for a provider that is gone, not for one that answers with errors; closes once it is back."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from actors.pool.breaker import Breaker, BreakerState
from actors.pool.calls import CallRequest
from benchmarks.world.server import CandidateServer
from rewards.transcript import CallStatus, RouteCall

pytestmark = pytest.mark.thorough

ASK = CallRequest("small", "small", "who wrote it", max_tokens=64)


def test_failures_over_half_a_second_open_it_and_a_success_closes_it() -> None:
    breaker = Breaker()
    for _ in range(100):
        breaker.failed()
    assert breaker.state is BreakerState.CLOSED  # all failed at once
    time.sleep(0.51)
    breaker.failed()
    assert breaker.state is BreakerState.OPEN
    assert not breaker.admit()
    assert 0.5 < breaker.next_probe_s <= 1
    breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    assert breaker.admit()


def test_few_failures_and_failures_between_successes_leave_it_closed() -> None:
    breaker = Breaker()
    breaker.failed()
    time.sleep(0.51)
    for _ in range(2):
        breaker.failed()
    assert breaker.state is BreakerState.CLOSED  # three
    breaker.succeeded()
    for _ in range(3):
        breaker.failed()
    assert breaker.state is BreakerState.CLOSED  # failures are counted from 0 again


async def test_no_call_outlasts_the_opening_of_the_breaker_by_probing(pool: Any) -> None:
    """A call whose probe fails must fail at once like the others, because its episode waits for it."""
    gone = "http://127.0.0.1:9/v1"  # nobody listens there
    caller = pool.caller([pool.card(gone)], total_timeout_s=60, max_attempts=30, backoff_s=0.25)
    began = time.monotonic()
    calls = await asyncio.gather(*(caller.ask(ASK) for _ in range(3)))
    alone = await caller.ask(ASK)
    assert {call.status for call in (*calls, alone)} == {CallStatus.PROVIDER_ERROR}
    assert all("is down" in call.error for call in (*calls, alone))
    assert time.monotonic() - began < 10
    await caller.close()


@pytest.mark.engine  # 5 s
@pytest.mark.parametrize("when_down", ["fail", "wait"])
async def test_a_provider_that_goes_and_comes_back(pool: Any, when_down: str) -> None:
    server, base_url = await pool.server()
    caller = pool.caller([pool.card(base_url)], when_down=when_down, total_timeout_s=20, max_attempts=8, backoff_s=0.25)
    host = base_url.split("/")[2]
    ended: list[tuple[float, RouteCall]] = []
    stop = False

    async def work() -> None:
        while not stop:
            call = await caller.ask(ASK)
            ended.append((time.monotonic(), call))
            await asyncio.sleep(0.02)

    workers = [asyncio.create_task(work()) for _ in range(4)]
    await asyncio.sleep(0.3)
    await server.stop()
    went = time.monotonic()
    opened = None
    while time.monotonic() < went + (10 if opened is None else 3):
        if opened is None and caller.stats().breakers[host] != BreakerState.CLOSED:
            opened = time.monotonic() - went
        await asyncio.sleep(0.02)
    sent = caller.stats().attempts
    back = CandidateServer(pool.echo())
    await back.start(port=int(host.split(":")[1]))
    came = time.monotonic()
    await asyncio.sleep(2.0)
    stop = True
    await asyncio.gather(*workers)
    await back.stop()

    assert opened is not None
    assert opened < 8
    first_ok = min(at for at, call in ended if at > came and call.status is CallStatus.OK)
    assert first_ok - came < 5
    assert caller.stats().breakers[host] == BreakerState.CLOSED
    during = [call for at, call in ended if went + opened < at < came]
    if when_down == "fail":
        assert {call.status for call in during} == {CallStatus.PROVIDER_ERROR}
        assert any(call.attempts == 0 and "is down" in call.error for call in during)
        assert sent < len(ended)  # the others were not sent
    else:
        assert {call.status for _, call in ended} == {CallStatus.OK}


async def test_errors_and_rate_limits_among_good_replies_leave_it_closed(pool: Any) -> None:
    _, base_url = await pool.server(rate_limit=0.3, server_error=0.3, retry_after_s=0)
    caller = pool.caller([pool.card(base_url)], max_attempts=30, backoff_s=0.002)
    calls = await asyncio.gather(*(caller.ask(ASK) for _ in range(60)))
    assert {call.status for call in calls} == {CallStatus.OK}


async def test_a_refusal_is_an_answer(pool: Any) -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(0.1)
        return web.json_response({"error": {"message": "no such model"}}, status=404)

    caller = pool.caller([pool.card(await pool.provider(handler))])
    for _ in range(7):
        call = await caller.ask(ASK)
    assert call.attempts == 1
    assert set(caller.stats().breakers.values()) == {BreakerState.CLOSED}
