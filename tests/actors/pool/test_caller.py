"""The caller against real servers: statuses, retries, deadlines, costs, and keys that reach only their provider."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from actors.pool.caller import CANDIDATE_PROMPT, CandidateCaller
from actors.pool.calls import CallRequest
from actors.pool.candidate import worst_usd
from actors.pool.cards import CardError
from actors.pool.settings import PoolSettings
from actors.pool.transport import PoolError
from rewards.transcript import CallStatus, RouteCall

ASK = CallRequest(model="small", requested="Small ", query="who wrote it", question_id="q1", max_tokens=64)
KEY = "sk-donotshow-0123456789"


def completion(text: str | None = "fine", **fields: object) -> web.Response:
    body: dict[str, object] = {
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 5},
    }
    return web.json_response(body | fields)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_ok(pool: Any) -> None:
    server, base_url = await pool.server()
    caller = pool.caller([pool.card(base_url, aliases=["tiny"])])
    call = await caller.ask(CallRequest(model="TINY", requested="TINY", query="who wrote it"))
    assert call.status is CallStatus.OK
    assert (call.requested, call.model, call.reply) == ("TINY", "small", "echo: who wrote it")
    assert (call.prompt_tokens, call.completion_tokens, call.attempts, call.error) == (20, 4, 1, "")
    assert call.cost_usd == pytest.approx((20 * 1.0 + 4 * 3.0) / 1e6)
    assert server.stats()["billed_tokens"] == {"small": {"prompt": 20, "completion": 4}}
    stats = caller.stats()
    assert (stats.calls, stats.attempts, stats.in_flight, stats.status) == (1, 1, 0, {"ok": 1})
    assert stats.usd == {"small": call.cost_usd}


async def test_what_is_sent(pool: Any) -> None:
    seen: list[dict[str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return completion()

    card = pool.card(await pool.provider(handler), model="vendor/small-1", max_output_tokens=32, temperature=0.5)
    await pool.caller([card]).ask(ASK)
    await pool.caller([card], send_question_id=True).ask(
        CallRequest(model="small", requested="small", query="q", question_id="q1", max_tokens=8, seed=11)
    )
    assert seen[0] == {
        "model": "vendor/small-1",
        "messages": [{"role": "system", "content": CANDIDATE_PROMPT}, {"role": "user", "content": "who wrote it"}],
        "max_tokens": 32,
        "temperature": 0.5,
    }
    assert (seen[1]["max_tokens"], seen[1]["seed"], seen[1]["metadata"]) == (8, 11, {"question_id": "q1"})


@pytest.mark.parametrize(
    ("fault", "status", "attempts", "error"),
    [
        ("rate_limit", CallStatus.PROVIDER_ERROR, 3, "HTTP 429"),
        ("server_error", CallStatus.PROVIDER_ERROR, 3, "HTTP 500"),
        ("cut_off", CallStatus.PROVIDER_ERROR, 3, "broke"),
        ("hang", CallStatus.TIMEOUT, 1, "within 0.4 s (pool.total_timeout_s)"),
        ("html", CallStatus.PROVIDER_ERROR, 1, "not JSON"),
        ("invalid_json", CallStatus.PROVIDER_ERROR, 3, "not JSON"),
        ("empty_choices", CallStatus.PROVIDER_ERROR, 1, "no choices"),
        ("null_content", CallStatus.PROVIDER_ERROR, 1, "NoneType"),
        ("refusal", CallStatus.REFUSED, 1, "content filter"),
        ("no_usage", CallStatus.OK, 1, "estimated"),
        ("wrong_usage", CallStatus.OK, 1, "estimated"),
    ],
)
async def test_every_fault(pool: Any, fault: str, status: CallStatus, attempts: int, error: str) -> None:
    server, base_url = await pool.server(**{fault: 1.0}, retry_after_s=0)
    call = await pool.caller([pool.card(base_url)], total_timeout_s=0.4 if fault == "hang" else 30).ask(ASK)
    assert (call.status, call.attempts) == (status, attempts)
    assert error in call.error
    assert call.latency_s < 10
    assert call.cost_usd > 0
    assert server.stats()["faults"] == {fault: attempts}


async def test_faults_pass_when_retried(pool: Any) -> None:
    server, base_url = await pool.server(rate_limit=0.2, server_error=0.2, cut_off=0.1, retry_after_s=0, seed=1)
    caller = pool.caller([pool.card(base_url)], max_attempts=16, backoff_s=0.002)
    await caller.ask(ASK)  # first, the caller learns the cost of a usual reply
    calls = await asyncio.gather(*(caller.ask(ASK) for _ in range(60)))
    assert {call.status for call in calls} == {CallStatus.OK}
    stats = caller.stats()
    assert stats.attempts >= sum(call.attempts for call in calls) > 80
    billed = server.stats()["billed_tokens"]["small"]
    assert stats.usd["small"] == pytest.approx((billed["prompt"] + 3 * billed["completion"]) / 1e6)
    assert stats.reserved_usd == pytest.approx(0)


async def test_retry_after_is_waited_for(pool: Any) -> None:
    times: list[float] = []

    async def handler(request: web.Request) -> web.Response:
        times.append(time.monotonic())
        return completion() if len(times) > 1 else web.Response(status=429, headers={"Retry-After": "0.4"})

    call = await pool.caller([pool.card(await pool.provider(handler))]).ask(ASK)
    assert (call.status, call.attempts) == (CallStatus.OK, 2)
    assert 0.4 <= times[1] - times[0] < 4


async def test_retry_after_beyond_the_deadline_ends_the_call(pool: Any) -> None:
    _, base_url = await pool.server(rate_limit=1.0, retry_after_s=3600)
    started = time.monotonic()
    call = await pool.caller([pool.card(base_url)]).ask(ASK)
    assert (call.status, call.attempts) == (CallStatus.PROVIDER_ERROR, 1)
    assert "3600.0 s is past the deadline" in call.error
    assert time.monotonic() - started < 4  # a call's deadline is 5


async def test_backoff_doubles(pool: Any) -> None:
    times: list[float] = []

    async def handler(request: web.Request) -> web.Response:
        times.append(time.monotonic())
        return web.Response(status=500)

    caller = pool.caller([pool.card(await pool.provider(handler))], max_attempts=4, backoff_s=0.1, total_timeout_s=60)
    await caller.ask(ASK)
    gaps = [after - before for before, after in pairwise(times)]
    assert all(gap >= 0.5 * nominal for gap, nominal in zip(gaps, (0.1, 0.2, 0.4), strict=True))
    assert gaps[0] < 1.5 * 0.1 + 2  # a machine may stall


async def test_a_connection_that_breaks_is_tried_again(pool: Any) -> None:
    seen: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(1)
        if len(seen) == 1 and request.transport is not None:
            request.transport.abort()
        return completion()

    call = await pool.caller([pool.card(await pool.provider(handler))]).ask(ASK)
    assert (call.status, call.attempts) == (CallStatus.OK, 2)


async def test_no_server_mid_run(pool: Any) -> None:
    card = pool.card(f"http://127.0.0.1:{closed_port()}/v1")
    caller = pool.caller([card])
    call = await caller.ask(ASK)
    assert (call.status, call.attempts) == (CallStatus.PROVIDER_ERROR, 3)
    assert "ClientConnectorError" in call.error
    assert call.cost_usd == worst_usd(card, ASK)  # a failed call never costs less than an answered one
    assert caller.stats().usd["small"] == 0  # the provider billed nothing


async def test_something_that_is_no_http(pool: Any) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"220 mail ready\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        call = await pool.caller([pool.card(f"http://127.0.0.1:{port}/v1")]).ask(ASK)
    assert call.status is CallStatus.PROVIDER_ERROR


async def test_redirects_are_not_followed(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOL_TEST_KEY", KEY)
    reached: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        reached.append(request.headers.get("Authorization", ""))
        return completion()

    target = await pool.provider(elsewhere)

    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{target}/chat/completions"})

    caller = pool.caller([pool.card(await pool.provider(redirect), api_key_env="POOL_TEST_KEY")])
    call = await caller.ask(ASK)
    assert (call.status, call.attempts) == (CallStatus.PROVIDER_ERROR, 1)
    assert "redirects are not followed" in call.error
    with pytest.raises(PoolError, match="redirects"):
        await caller.check()
    assert reached == []


@pytest.mark.parametrize("compressed", [False, True])
async def test_ten_megabytes(pool: Any, compressed: bool) -> None:
    async def handler(request: web.Request) -> web.Response:
        response = completion("x" * 10_000_000)
        if compressed:
            response.enable_compression()
        return response

    call = await pool.caller([pool.card(await pool.provider(handler))]).ask(ASK)
    assert (call.status, call.attempts) == (CallStatus.PROVIDER_ERROR, 1)
    assert "longer than 1048576 bytes (pool.max_reply_bytes)" in call.error


@pytest.mark.parametrize("told", [False, True], ids=["chunked", "length-told"])
async def test_a_hundred_megabytes_are_not_read(pool: Any, told: bool) -> None:
    size, piece = 100_000_000, b" " * 65536
    written = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse(headers={"Content-Length": str(size)} if told else {})
        await response.prepare(request)
        while written < size:
            await response.write(piece)
            written += len(piece)
        return response

    caller = pool.caller([pool.card(await pool.provider(handler))])
    tracemalloc.start()
    try:
        call = await caller.ask(ASK)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    await asyncio.sleep(0.1)
    before = written
    await asyncio.sleep(0.1)
    assert written == before < size / 5  # only what the sockets hold: the server saw that we hung up
    assert most_bytes < 10_000_000
    assert (call.status, call.attempts) == (CallStatus.PROVIDER_ERROR, 1)
    assert "longer than 1048576 bytes" in call.error


async def test_an_endless_stream_is_left(pool: Any) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    call = await pool.caller([pool.card(await pool.provider(handler))]).ask(ASK)
    assert (call.status, call.attempts) == (CallStatus.PROVIDER_ERROR, 1)
    assert "longer than 1048576 bytes" in call.error


async def test_a_request_that_hangs_is_given_up_and_tried_again(pool: Any) -> None:
    seen: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(1)
        if len(seen) == 1:
            await asyncio.sleep(9)
        return completion()

    caller = pool.caller([pool.card(await pool.provider(handler))], first_byte_timeout_s=1.0, total_timeout_s=30)
    call = await caller.ask(ASK)
    assert (call.status, call.attempts) == (CallStatus.OK, 2)
    assert 1.0 <= call.latency_s < 8
    assert caller.stats().usd["small"] > call.cost_usd  # the provider may also bill the other request


async def test_total_deadline_covers_a_trickle(pool: Any) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    call = await pool.caller([pool.card(await pool.provider(handler))], total_timeout_s=0.3).ask(ASK)
    assert call.status is CallStatus.TIMEOUT
    assert 0.3 <= call.latency_s < 8


async def test_missing_usage_is_estimated_from_the_lengths(pool: Any) -> None:
    async def handler(request: web.Request) -> web.Response:
        return completion("x" * 40, usage={"prompt_tokens": -4, "completion_tokens": 9})

    caller = pool.caller([pool.card(await pool.provider(handler))])
    call = await caller.ask(ASK)
    prompt = -(-len(CANDIDATE_PROMPT) // 4) + -(-len(ASK.query) // 4)
    assert (call.status, call.prompt_tokens, call.completion_tokens) == (CallStatus.OK, prompt, 10)
    assert call.cost_usd == pytest.approx((prompt + 30) / 1e6) == caller.stats().usd["small"]
    assert "estimated" in call.error


@pytest.mark.parametrize("usage", [(5000, 5), (20, 65), (10_000_000, 10_000_000)])
@pytest.mark.parametrize("text", ["fine", "x" * 4000])
async def test_no_call_settles_above_what_was_reserved_for_it(pool: Any, usage: tuple[int, int], text: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return completion(text, usage={"prompt_tokens": usage[0], "completion_tokens": usage[1]})

    card = pool.card(await pool.provider(handler))
    caller = pool.caller([card], cap_usd_per_run=worst_usd(card, ASK))
    call = await caller.ask(ASK)
    assert (call.status, call.cost_estimated) == (CallStatus.OK, True)
    assert 0 < call.cost_usd == caller.stats().usd["small"] <= worst_usd(card, ASK)
    assert caller.stats().nonsense == {"small": 1}


async def test_a_guess_from_dear_calls_is_no_more_than_a_cheap_ones_worst_case(pool: Any) -> None:
    seen: list[int] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(1)
        if len(seen) == 1:
            return completion("x" * 2000, usage={"prompt_tokens": 100, "completion_tokens": 500})
        response = web.StreamResponse(headers={"Content-Length": "99"})  # a reply that is billed, but cut off
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.abort()
        return response

    card = pool.card(await pool.provider(handler))
    caller = pool.caller([card], max_attempts=1)
    await caller.ask(CallRequest("small", "small", "a long answer", max_tokens=512))
    before = caller.stats().usd["small"]
    cheap = CallRequest("small", "small", "q", max_tokens=4)
    await caller.ask(cheap)
    assert caller.stats().usd["small"] - before == pytest.approx(worst_usd(card, cheap))


async def test_estimates_know_the_models_tokens_once_it_has_reported_some(pool: Any) -> None:
    """A model with two characters per token, whose provider later stops to report usage."""
    silent = False

    async def handler(request: web.Request) -> web.Response:
        text = "".join(message["content"] for message in (await request.json())["messages"])
        usage = {"prompt_tokens": len(text) // 2, "completion_tokens": 20}
        return completion("x" * 40, usage=None if silent else usage)

    caller = pool.caller([pool.card(await pool.provider(handler))])
    for number in range(5):
        await caller.ask(CallRequest("small", "small", "who wrote it?" * number, max_tokens=64))
    silent = True
    call = await caller.ask(CallRequest("small", "small", "x" * 400, max_tokens=64))
    assert call.cost_estimated
    assert call.prompt_tokens == pytest.approx((len(CANDIDATE_PROMPT) + 400) / 2, rel=0.02)
    assert call.completion_tokens == 20


async def test_a_refusal_without_usage_is_charged_in_full(pool: Any) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"error": {"code": "content_filter", "message": "no"}}, status=400)

    call = await pool.caller([pool.card(await pool.provider(handler))]).ask(ASK)
    assert call.status is CallStatus.REFUSED
    assert call.completion_tokens == ASK.max_tokens
    assert call.cost_usd > 64 * 3.0 / 1e6


async def test_billed_attempts_that_failed_are_paid(pool: Any) -> None:
    async def handler(request: web.Request) -> web.Response:
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return web.json_response({"error": {"message": "overloaded"}, "usage": usage}, status=500)

    card = pool.card(await pool.provider(handler))
    caller = pool.caller([card])
    call = await caller.ask(ASK)
    assert call.status is CallStatus.PROVIDER_ERROR
    assert (call.prompt_tokens, call.completion_tokens, call.cost_usd) == (0, 0, worst_usd(card, ASK))
    assert caller.stats().usd["small"] == pytest.approx(3 * 130e-6)


@pytest.mark.parametrize("usage", [True, False])
async def test_attempts_that_failed_before_are_paid_but_are_no_cost_of_the_call(pool: Any, usage: bool) -> None:
    seen: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(1)
        billed = {"prompt_tokens": 100, "completion_tokens": 10}
        if len(seen) < 3:
            return web.json_response({"error": {"message": "overloaded"}, "usage": billed}, status=500)
        return completion() if usage else completion("x" * 40, usage=None)

    caller = pool.caller([pool.card(await pool.provider(handler))])
    call = await caller.ask(ASK)
    assert (call.status, call.attempts) == (CallStatus.OK, 3)
    assert call.completion_tokens == (5 if usage else 10)
    assert call.cost_usd == pytest.approx((call.prompt_tokens + 3 * call.completion_tokens) / 1e6)
    assert caller.stats().usd["small"] == pytest.approx(2 * 130e-6 + call.cost_usd)


async def test_a_call_waits_no_longer_than_allowed_for_a_slot(pool: Any) -> None:
    server, base_url = await pool.server(hang=1.0)
    caller = pool.caller([pool.card(base_url)], max_in_flight=1, queue_timeout_s=0.2)
    first = asyncio.create_task(caller.ask(ASK))
    await pool.until(lambda: server.stats()["in_flight"] == 1)
    second = await caller.ask(ASK)
    assert (second.status, second.attempts) == (CallStatus.TIMEOUT, 0)
    assert second.cost_usd > 0
    assert "within 0.2 s (pool.queue_timeout_s)" in second.error
    assert "a free slot of pool.max_in_flight=1" in second.error
    assert 0.2 <= second.latency_s < 4
    assert not first.done()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    third = asyncio.create_task(caller.ask(ASK))  # the slot is free again
    await pool.until(lambda: server.stats()["in_flight"] == 1)
    third.cancel()
    assert caller.stats().status == {"timeout": 1}


async def test_cancelling_ask_cancels_the_request(pool: Any) -> None:
    server, base_url = await pool.server(hang=1.0)
    caller = pool.caller([pool.card(base_url)])
    task = asyncio.create_task(caller.ask(ASK))
    await pool.until(lambda: server.stats()["in_flight"] == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await pool.until(lambda: server.stats()["in_flight"] == 0)
    stats = caller.stats()
    assert (stats.calls, stats.cancelled, stats.in_flight, stats.status) == (1, 1, 0, {})


async def test_120_calls_at_once(pool: Any) -> None:
    server, base_url = await pool.server(pool.echo(latency_s=0.2))
    caller = pool.caller([pool.card(base_url), pool.card(base_url, "large")], max_in_flight=120, connect_timeout_s=5)
    started = time.monotonic()
    requests = [CallRequest(("small", "large")[n % 2], "x", f"question number {n}") for n in range(120)]
    calls = await asyncio.gather(*map(caller.ask, requests))
    assert [call.reply for call in calls] == [f"echo: question number {n}" for n in range(120)]
    assert time.monotonic() - started < 15  # one after another they would take 24 s
    assert server.stats()["calls"] == {"small": 60, "large": 60}


async def test_the_limit_per_minute_holds(pool: Any) -> None:
    _, base_url = await pool.server()
    caller = pool.caller([pool.card(base_url, requests_per_minute=1200), pool.card(base_url, "large")])
    started = time.monotonic()
    waited: list[float] = []

    async def ask() -> RouteCall:
        call = await caller.ask(ASK)
        waited.append(time.monotonic() - started - call.latency_s)
        return call

    calls = await asyncio.gather(*(ask() for _ in range(28)))  # 20 at once, and 20 a second
    assert {call.status for call in calls} == {CallStatus.OK}
    assert max(waited) >= 0.39  # before a call's own clock starts


async def test_a_call_whose_turn_is_too_late_is_a_timeout_that_names_the_limit(pool: Any) -> None:
    _, base_url = await pool.server()
    caller = pool.caller([pool.card(base_url, requests_per_minute=1)], queue_timeout_s=0.1)
    assert (await caller.ask(ASK)).status is CallStatus.OK
    call = await caller.ask(ASK)
    assert (call.status, call.attempts) == (CallStatus.TIMEOUT, 0)
    assert "its turn under the card's requests_per_minute and tokens_per_minute" in call.error


@pytest.mark.parametrize("way", ["cancelled", "late for a slot", "over budget", "endpoint down", "retry past deadline"])
async def test_a_call_that_is_not_sent_gives_its_turn_back(pool: Any, way: str) -> None:
    server, base_url = await pool.server(hang=1.0)
    if way == "retry past deadline":
        server, base_url = await pool.server(rate_limit=1.0, retry_after_s=0)
    settings: dict[str, Any] = {"max_in_flight": 1, "queue_timeout_s": 0.1}
    if way == "over budget":
        settings["cap_usd_per_run"] = 1e-9
    if way == "retry past deadline":
        settings |= {"total_timeout_s": 0.2, "backoff_s": 30, "max_attempts": 5}
    caller = pool.caller([pool.card(base_url, requests_per_minute=600)], **settings)  # ten at once
    [candidate] = caller._candidates.values()
    sent = 0
    if way in ("cancelled", "late for a slot"):
        first = asyncio.create_task(caller.ask(ASK))
        await pool.until(lambda: server.stats()["in_flight"] == 1)
        sent = 1
    if way == "endpoint down":
        breaker = candidate.endpoint.breaker
        breaker.admit = lambda: False  # half open, while other calls are its probes
    for _ in range(4):
        task = asyncio.create_task(caller.ask(ASK))
        if way == "cancelled":
            await asyncio.sleep(0.02)
            task.cancel()
        await asyncio.wait([task])
        sent += way == "retry past deadline"
    used_s = candidate._requests._paid_until - time.monotonic() + 10 * 0.1  # a turn is a tenth of a second
    assert used_s < 0.1 * sent + 0.05
    if sent == 1:
        first.cancel()
        await asyncio.wait([first])


async def test_fewer_calls_are_under_way_at_a_provider_that_turns_them_away(pool: Any) -> None:
    _, base_url = await pool.server(rate_limit=1.0, retry_after_s=0)
    caller = pool.caller([pool.card(base_url)], max_in_flight=16, max_attempts=2)
    await asyncio.gather(*(caller.ask(ASK) for _ in range(8)))
    assert set(caller.stats().limits.values()) == {8}


async def test_no_more_than_max_in_flight(pool: Any) -> None:
    server, base_url = await pool.server(pool.echo(latency_s=0.1))
    caller = pool.caller([pool.card(base_url)], max_in_flight=4)
    tasks = [asyncio.create_task(caller.ask(ASK)) for _ in range(12)]
    most = 0
    while not all(task.done() for task in tasks):
        most = max(most, server.stats()["in_flight"])
        await asyncio.sleep(0.005)
    assert most == 4


async def test_check_of_a_dead_server_is_one_clear_error(pool: Any) -> None:
    base_url = f"http://127.0.0.1:{closed_port()}/v1"
    started = time.monotonic()
    with pytest.raises(PoolError, match="start the server, or correct") as caught:
        await pool.caller([pool.card(base_url), pool.card(base_url, "large")]).check()
    assert f"{base_url}/models" in str(caught.value)
    assert time.monotonic() - started < 10


async def test_check_of_a_server_that_says_nothing(pool: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        card = pool.card(f"http://127.0.0.1:{silent.getsockname()[1]}/v1")
        caller = pool.caller([card], connect_timeout_s=0.5)
        started = time.monotonic()
        with pytest.raises(PoolError, match=r"within 0.5 s \(pool.connect_timeout_s\)"):
            await caller.check()
        assert 0.4 < time.monotonic() - started < 8


@pytest.mark.parametrize(("status", "reason"), [(401, "refused the key"), (503, "out of order")])
async def test_check_of_a_server_that_complains(pool: Any, status: int, reason: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status)

    with pytest.raises(PoolError, match=reason):
        await pool.caller([pool.card(await pool.provider(handler))]).check()


async def test_check_asks_each_endpoint_once(pool: Any) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"data": []})

    first, second = await pool.provider(handler), await pool.provider(handler)
    await pool.caller([pool.card(first, "a"), pool.card(first, "b"), pool.card(second, "c")]).check()
    assert asked == ["/v1/models", "/v1/models"]


async def test_the_key_goes_in_the_header_and_nowhere_else(
    pool: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("POOL_TEST_KEY", KEY)
    headers: list[str] = []
    bodies = iter(
        [
            web.json_response({"error": {"message": "x" * 180 + f" bad key {KEY}"}}, status=500),
            web.json_response({"error": {"message": f"bad key {KEY}"}}, status=400),
            web.json_response({"error": {"message": f"wrong key {KEY[:12]}"}}, status=401),
            completion(f"your key is {KEY}"),
            web.Response(status=500, reason=KEY),
            web.Response(text=f"<html>{KEY}"),
        ]
    )

    async def handler(request: web.Request) -> web.Response:
        headers.append(request.headers["Authorization"])
        return next(bodies)

    card = pool.card(await pool.provider(handler), api_key_env="POOL_TEST_KEY")
    caller = pool.caller([card], max_attempts=1)
    calls = [await caller.ask(ASK) for _ in range(6)]
    assert headers == [f"Bearer {KEY}"] * 6
    assert calls[3].reply == "your key is ***"
    shown = caplog.text + repr(calls) + repr(caller.stats()) + repr(caller.__dict__) + card.model_dump_json()
    assert KEY[:8] not in shown


async def test_the_key_is_read_at_call_time_and_named_when_missing(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, base_url = await pool.server()
    caller = pool.caller([pool.card(base_url, api_key_env="POOL_TEST_KEY")])
    monkeypatch.delenv("POOL_TEST_KEY", raising=False)
    for ask in (caller.check(), caller.ask(ASK)):
        with pytest.raises(PoolError, match=r"card 'small'.*POOL_TEST_KEY is not set"):
            await ask
    monkeypatch.setenv("POOL_TEST_KEY", f"{KEY}\r\nX: y")
    with pytest.raises(PoolError) as caught:
        await caller.ask(ASK)
    assert "POOL_TEST_KEY" in str(caught.value)
    assert KEY not in str(caught.value)
    monkeypatch.setenv("POOL_TEST_KEY", f" {KEY}\n")
    assert (await caller.ask(ASK)).status is CallStatus.OK


async def test_no_key_goes_to_an_overriding_base_url(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOL_TEST_KEY", KEY)
    seen: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return completion()

    card = pool.card("https://provider.example/v1", api_key_env="POOL_TEST_KEY")
    caller = pool.caller([card], base_url=await pool.provider(handler))
    assert (await caller.ask(ASK)).status is CallStatus.OK
    await caller.check()
    assert seen == [None, None]


async def test_what_is_wrongly_configured(pool: Any) -> None:
    card = pool.card("http://127.0.0.1:1/v1")
    with pytest.raises(PoolError, match=r"pool\.cards"):
        CandidateCaller([], PoolSettings())
    with pytest.raises(CardError, match="already belongs"):
        CandidateCaller([card, card], PoolSettings())
    with pytest.raises(ValidationError, match=r"base_url\s+Value error, must be an http"):
        PoolSettings(base_url="localhost:80")
    caller = CandidateCaller([card], PoolSettings())
    with pytest.raises(PoolError, match="no card of this caller is named 'medium'; it has small"):
        await caller.ask(CallRequest(model="medium", requested="medium", query="x"))
    await caller.close()
    with pytest.raises(PoolError, match="closed"):
        await caller.ask(ASK)


async def test_requests_are_json_that_any_server_reads(pool: Any) -> None:
    raw: list[bytes] = []

    async def handler(request: web.Request) -> web.Response:
        raw.append(await request.read())
        return completion()

    query = 'Größe "x"\n\x00 \ud800 日本'
    call = await pool.caller([pool.card(await pool.provider(handler))]).ask(CallRequest("small", "small", query))
    assert call.status is CallStatus.OK
    assert json.loads(raw[0])["messages"][1]["content"] == query
