"""Hedges: the first good reply wins, the other request is cancelled, and both are paid for within the caps."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from actors.pool.calls import CallRequest
from actors.pool.candidate import worst_usd
from actors.pool.hedging import first_good
from actors.pool.limits import TokenBucket
from actors.pool.reply import Reply
from rewards.transcript import CallStatus

pytestmark = pytest.mark.thorough

ASK = CallRequest("small", "small", "who wrote it", max_tokens=64)
GOOD, BAD, REFUSED = Reply(text="good"), Reply(fault="bad"), Reply(refusal="no")


async def after(seconds: float, reply: Reply | None, ended: list[str] | None = None) -> Any:
    try:
        await asyncio.sleep(seconds)
        return reply
    finally:
        if ended is not None:
            ended.append(reply.text if reply else "")


@pytest.mark.parametrize(
    ("first", "second", "wins"),
    [
        ((0.0, BAD), (0.0, GOOD), BAD),  # not slow: no second request
        ((9.0, BAD), (0.0, GOOD), GOOD),
        ((0.05, GOOD), (0.0, BAD), GOOD),
        ((0.05, GOOD), (0.0, None), GOOD),  # the second was not sent
        ((0.05, BAD), (0.0, None), BAD),
        ((0.03, BAD), (0.05, GOOD), GOOD),
        ((0.03, REFUSED), (0.05, GOOD), REFUSED),  # if one request is refused, so is the other
        ((0.05, BAD), (0.0, REFUSED), REFUSED),
    ],
)
async def test_which_reply_wins(first: tuple[float, Reply], second: tuple[float, Reply | None], wins: Reply) -> None:
    assert await first_good(after(*first), 0.01, lambda: after(*second)) is wins


async def test_both_have_ended_when_it_is_cancelled() -> None:
    ended: list[str] = []
    task = asyncio.create_task(first_good(after(9, GOOD, ended), 0.01, lambda: after(9, GOOD, ended)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["good", "good"]


async def test_an_error_of_the_second_is_raised() -> None:
    async def broken() -> Reply | None:
        raise RuntimeError("no purse")

    with pytest.raises(RuntimeError, match="no purse"):
        await first_good(after(9, GOOD), 0.01, broken)


class Slow:
    """A provider that answers at once, except for requests whose number is in `slow`, and notices who hangs up."""

    def __init__(self, slow: set[int]) -> None:
        self.slow = slow
        self.requests = self.gone = 0

    async def answer(self, request: web.Request) -> web.Response:
        number, self.requests = self.requests, self.requests + 1
        try:
            await asyncio.sleep(9 if number in self.slow else 0.005)
        except asyncio.CancelledError:
            self.gone += 1
            raise
        body = {
            "choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 5},
        }
        return web.json_response(body)


async def test_a_slow_call_is_sent_twice_and_both_are_paid_for(pool: Any) -> None:
    provider = Slow({20})
    caller = pool.caller([pool.card(await pool.provider(provider.answer))], hedge_quantile=0.9)
    for _ in range(20):
        await caller.ask(ASK)
    call = await caller.ask(ASK)
    assert (call.status, call.attempts) == (CallStatus.OK, 2)
    assert call.latency_s < 2
    assert call.cost_usd == pytest.approx(35e-6)  # of the winner only, or slow providers would look dear
    stats = caller.stats()
    assert (stats.hedges, stats.attempts, provider.requests) == (1, 22, 22)
    assert stats.usd["small"] == pytest.approx(22 * 35e-6)
    assert stats.reserved_usd == pytest.approx(0)
    assert set(stats.limits.values()) == {256}
    await pool.until(lambda: provider.gone == 1)


@pytest.mark.parametrize("limit", ["cap", "slot", "turn", "breaker"])
async def test_a_hedge_is_not_sent_past_a_limit(pool: Any, limit: str) -> None:
    provider = Slow({20})
    card = pool.card(await pool.provider(provider.answer))
    settings: dict[str, Any] = {}
    if limit == "cap":
        settings["cap_usd_per_run"] = 20 * 35e-6 + 1.5 * worst_usd(card, ASK)
    elif limit == "slot":
        settings["max_in_flight"] = 1
    caller = pool.caller([card], hedge_quantile=0.9, total_timeout_s=3, **settings)
    for _ in range(20):
        assert (await caller.ask(ASK)).status is CallStatus.OK
    provider.slow = set(range(20, 100))
    if limit == "turn":
        caller._candidates["small"]._requests = TokenBucket(60)  # a call a second
    elif limit == "breaker":
        asyncio.get_running_loop().call_later(0.003, bring_down, caller)
    call = await caller.ask(ASK)
    assert call.status is CallStatus.TIMEOUT
    assert (caller.stats().hedges, provider.requests) == (0, 21)


def bring_down(caller: Any) -> None:
    """Opens the breaker, as concurrent calls do when their endpoint is gone."""
    [endpoint] = caller._endpoints.values()
    endpoint.breaker._probe_at_s = time.monotonic() + 9
