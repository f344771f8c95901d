"""The caller and its ledger: what each mode records, answers and sends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from actors.pool.calls import CallRequest
from actors.pool.ledger import Ledger
from actors.pool.transport import PoolError
from benchmarks.world.server import CandidateServer
from rewards.transcript import CallStatus, RouteCall

ASK = CallRequest("small", "small", "who wrote it", max_tokens=64, step=1, episode="e1")
PRICE = 32e-6  # of a call to the echo


def asks(count: int) -> list[CallRequest]:
    return [replace(ASK, query=f"question number {n}", episode=f"e{n}") for n in range(count)]


def calls_of(server: CandidateServer) -> int:
    return int(sum(server.stats()["calls"].values()))


async def booked(ledger_url: str, run: str = "run") -> float:
    ledger = await Ledger.open(ledger_url, run=run)
    try:
        return sum((await ledger.spent_usd(run=run)).values())
    finally:
        await ledger.close()


async def ask_once(caller: Any, requests: list[CallRequest]) -> list[RouteCall]:
    try:
        return list(await asyncio.gather(*map(caller.ask, requests)))
    finally:
        await caller.close()


async def test_a_recorded_run_replays_the_same_calls_and_sends_nothing(pool: Any, ledger_url: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        query = (await request.json())["messages"][1]["content"]
        number = int(query.rsplit(" ", 1)[1])
        if number % 5 == 0:
            return web.json_response({"error": {"code": "content_filter", "message": "no"}}, status=400)
        usage = {"prompt_tokens": 20 + number, "completion_tokens": 3} if number % 2 else None
        choice = {"message": {"content": f"reply {number}\0\ud800"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": usage})

    card = pool.card(await pool.provider(handler))
    recorded = await ask_once(pool.caller([card], ledger_url), asks(12))
    dead = pool.card("http://127.0.0.1:9/v1")  # where nobody listens
    replayer = pool.caller([dead], ledger_url, ledger="replay")
    await replayer.check()
    assert [await replayer.ask(request) for request in asks(12)] == recorded
    assert {call.status for call in recorded} == {CallStatus.OK, CallStatus.REFUSED}
    stats = replayer.stats()
    assert (stats.hits, stats.attempts) == (12, 0)


async def test_what_is_missing_in_a_replay_voids_and_says_so(pool: Any, ledger_url: str) -> None:
    server, base_url = await pool.server()
    call = await pool.caller([pool.card(base_url)], ledger_url, ledger="replay").ask(ASK)
    assert call.status is CallStatus.PROVIDER_ERROR
    assert "the ledger holds no reply of small to this request" in call.error
    assert "pool.ledger=cache" in call.error
    assert call.cost_usd > 0
    assert calls_of(server) == 0


async def test_identical_calls_at_once_cost_one_and_later_ones_nothing(pool: Any, ledger_url: str) -> None:
    server, base_url = await pool.server(pool.echo(latency_s=0.05))
    caller = pool.caller([pool.card(base_url)], ledger_url, ledger="cache")
    same = [replace(ASK, requested=f"Small {n}", episode=f"e{n}") for n in range(100)]
    calls = await asyncio.gather(*map(caller.ask, same))
    assert {(call.status, call.reply) for call in calls} == {(CallStatus.OK, "echo: who wrote it")}
    assert [call.requested for call in calls] == [request.requested for request in same]
    assert [call.cost_usd for call in calls] == pytest.approx([PRICE] * 100)  # to a reward: what such a call costs
    assert calls_of(server) == 1
    assert (caller.stats().joined, caller.stats().hits) == (99, 0)
    assert await booked(ledger_url) == pytest.approx(PRICE) == caller.stats().usd["small"]
    await caller.ask(ASK)
    assert (calls_of(server), caller.stats().hits) == (1, 1)


async def test_those_who_joined_a_call_get_its_reply_when_its_first_asker_goes(pool: Any, ledger_url: str) -> None:
    server, base_url = await pool.server(pool.echo(latency_s=0.1))
    caller = pool.caller([pool.card(base_url)], ledger_url, ledger="cache")
    first, second = asyncio.create_task(caller.ask(ASK)), asyncio.create_task(caller.ask(ASK))
    await pool.until(lambda: caller.stats().joined)
    first.cancel()
    assert (await second).status is CallStatus.OK
    third = asyncio.create_task(caller.ask(replace(ASK, query="another")))
    await pool.until(lambda: calls_of(server) == 2)
    third.cancel()  # alone: nobody waits for it any more
    await asyncio.gather(first, third, return_exceptions=True)
    await pool.until(lambda: not server.stats()["in_flight"])


async def test_a_failed_call_is_asked_again(pool: Any, ledger_url: str) -> None:
    _, base_url = await pool.server(null_content=1.0)
    failed = await ask_once(pool.caller([pool.card(base_url)], ledger_url, ledger="cache"), [ASK])
    assert failed[0].status is CallStatus.PROVIDER_ERROR
    server, base_url = await pool.server()
    again = await ask_once(pool.caller([pool.card(base_url)], ledger_url, ledger="cache"), [ASK])
    assert again[0].status is CallStatus.OK
    assert calls_of(server) == 1
    assert await booked(ledger_url) > PRICE  # the failed one was billed too


async def test_the_same_place_of_a_run_is_paid_for_once(pool: Any, ledger_url: str) -> None:
    """As when a run goes on after a crash: what was answered is found, also under `record`."""
    server, base_url = await pool.server()
    card = pool.card(base_url)
    before = await ask_once(pool.caller([card], ledger_url), asks(5))
    caller = pool.caller([card], ledger_url)
    assert await asyncio.gather(*map(caller.ask, asks(5))) == before
    assert (calls_of(server), caller.stats().hits) == (5, 5)
    assert caller.stats().usd["small"] == pytest.approx(5 * PRICE)
    assert caller.stats().reserved_usd == pytest.approx(0)
    await ask_once(pool.caller([card], ledger_url, run="another"), asks(5))
    assert calls_of(server) == 10


async def test_a_cancelled_call_is_completed_at_what_it_may_have_cost(pool: Any, ledger_url: str) -> None:
    server, base_url = await pool.server(hang=1.0)
    caller = pool.caller([pool.card(base_url)], ledger_url)
    task = asyncio.create_task(caller.ask(ASK))
    await pool.until(lambda: server.stats()["in_flight"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    spent = caller.stats().usd["small"]
    await caller.close()
    assert spent > 0
    assert await booked(ledger_url) == pytest.approx(spent)


async def test_calls_that_were_not_sent_are_recorded_at_no_cost(pool: Any, ledger_url: str) -> None:
    server, base_url = await pool.server()
    caller = pool.caller([pool.card(base_url)], ledger_url, cap_usd_per_run=1e-6)
    call = await caller.ask(ASK)
    assert call.status is CallStatus.OVER_BUDGET
    assert await booked(ledger_url) == 0
    assert calls_of(server) == 0
    await caller.close()
    raised = pool.caller([pool.card(base_url)], ledger_url, cap_usd_per_run=1.0)
    assert (await raised.ask(ASK)).status is CallStatus.OK


async def test_a_cap_holds_over_the_restarts_of_a_run(pool: Any, ledger_url: str) -> None:
    _, base_url = await pool.server()
    card = pool.card(base_url)
    await ask_once(pool.caller([card], ledger_url), asks(10))
    spent = await booked(ledger_url)
    caller = pool.caller([card], ledger_url, cap_usd_per_run=spent)
    assert (await caller.ask(replace(ASK, query="one more"))).status is CallStatus.OVER_BUDGET
    assert caller.stats().usd["small"] == pytest.approx(spent)  # from the start of the run


async def test_off_records_nothing_and_the_other_modes_need_a_ledger(pool: Any, tmp_path: Path) -> None:
    _, base_url = await pool.server()
    path = tmp_path / "ledger.sqlite"
    await ask_once(pool.caller([pool.card(base_url)], f"sqlite:///{path}", ledger="off"), [ASK])
    assert not path.exists()
    for mode in ("cache", "replay"):
        with pytest.raises(PoolError, match=f"pool.ledger={mode} has no ledger to ask; name one in pool.ledger_url"):
            pool.caller([pool.card(base_url)], ledger=mode)


async def test_a_seed_makes_another_question_only_where_something_is_drawn(pool: Any, ledger_url: str) -> None:
    server, base_url = await pool.server()
    cold, warm = pool.card(base_url), pool.card(base_url, "large", temperature=0.7)
    caller = pool.caller([cold, warm], ledger_url, ledger="cache")
    for seed in (1, 2):
        await caller.ask(replace(ASK, seed=seed))
        await caller.ask(replace(ASK, model="large", seed=seed))
    assert server.stats()["calls"] == {"small": 1, "large": 2}
