"""The caller and its ledger: the calls that each mode records, answers and sends."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError
from sqlalchemy import create_engine, text

from actors.ledger.database import database_url
from actors.ledger.ledger import CallEntry, CallPlace, Ledger, LedgerError, Settled
from actors.pool.caller import CandidateCaller
from actors.pool.calls import CallRequest
from actors.pool.settings import PoolSettings
from actors.pool.transport import PoolError
from benchmarks.world.server import CandidateServer
from rewards.transcript import CallStatus, RouteCall

pytestmark = pytest.mark.thorough

ASK = CallRequest("small", "small", "who wrote it", max_tokens=64, step=1, episode="e1")
PRICE = 32e-6  # price of a call to the echo


def asks(count: int) -> list[CallRequest]:
    return [replace(ASK, query=f"question number {n}", episode=f"e{n}") for n in range(count)]


def calls_of(server: CandidateServer) -> int:
    return int(sum(server.stats()["calls"].values()))


def files_of(folder: Path) -> list[Path]:
    return [*folder.iterdir()]


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
    dead = pool.card("http://127.0.0.1:9/v1")  # nobody listens there
    replayer = pool.caller([dead], ledger_url, ledger="replay")
    await replayer.check()
    assert [await replayer.ask(request) for request in asks(12)] == recorded
    assert {call.status for call in recorded} == {CallStatus.OK, CallStatus.REFUSED}
    stats = replayer.stats()
    assert (stats.hits, stats.attempts) == (12, 0)


async def test_what_is_missing_in_a_replay_voids_and_says_so(pool: Any, ledger_url: str) -> None:
    server, base_url = await pool.server()
    await (await Ledger.open(ledger_url, run="run")).close()
    call = await pool.caller([pool.card(base_url)], ledger_url, ledger="replay").ask(ASK)
    assert call.status is CallStatus.PROVIDER_ERROR
    assert "the ledger holds no reply of small to this request" in call.error
    assert "pool.ledger=cache" in call.error
    assert call.voids
    assert call.cost_usd > 0
    assert calls_of(server) == 0


async def test_identical_calls_at_once_cost_one_and_later_ones_nothing(pool: Any, ledger_url: str) -> None:
    server, base_url = await pool.server(pool.echo(latency_s=0.05))
    caller = pool.caller([pool.card(base_url)], ledger_url, ledger="cache")
    same = [replace(ASK, requested=f"Small {n}", episode=f"e{n}") for n in range(100)]
    calls = await asyncio.gather(*map(caller.ask, same))
    assert {(call.status, call.reply) for call in calls} == {(CallStatus.OK, "echo: who wrote it")}
    assert [call.requested for call in calls] == [request.requested for request in same]
    assert [call.cost_usd for call in calls] == pytest.approx([PRICE] * 100)  # rewards see the usual cost of a call
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
    third.cancel()  # it was alone: nobody waits for the call any more
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
    assert await booked(ledger_url) > PRICE  # the failed attempt was billed too


async def test_the_same_place_of_a_run_is_paid_for_once(pool: Any, ledger_url: str) -> None:
    """A run continues after a crash: answered calls are found in the ledger, also with `record`."""
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


async def test_the_same_place_asked_twice_at_once_is_paid_for_once(pool: Any, ledger_url: str) -> None:
    """An engine died, and its episode is played again before its calls have ended; also if those calls end badly."""
    billed, may_answer = 0, asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        nonlocal billed
        await may_answer.wait()
        billed += 1
        usage = {"prompt_tokens": 20, "completion_tokens": 3}
        return web.json_response(
            {"choices": [{"message": {"content": "Paris"}, "finish_reason": "stop"}], "usage": usage}
        )

    caller = pool.caller([pool.card(await pool.provider(handler))], ledger_url)
    first, second, third = (asyncio.create_task(caller.ask(ASK)) for _ in range(3))
    await asyncio.sleep(0.2)
    first.cancel()  # its caller is gone: one of the others asks
    await asyncio.sleep(0.2)
    may_answer.set()
    assert [call.reply for call in await asyncio.gather(second, third)] == ["Paris", "Paris"]
    assert billed == 1
    assert caller._under_way == {}
    await caller.close()


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
    assert caller.stats().usd["small"] == pytest.approx(spent)  # counted from the start of the run


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


async def test_a_steps_cap_holds_over_the_restarts_of_a_run(pool: Any, ledger_url: str) -> None:
    _, base_url = await pool.server()
    card = pool.card(base_url)
    await ask_once(pool.caller([card], ledger_url), asks(30))
    caller = pool.caller([card], ledger_url, cap_usd_per_step=await booked(ledger_url))
    call = await caller.ask(replace(ASK, query="one more"))
    assert (call.status, "spent in step 1" in call.error) == (CallStatus.OVER_BUDGET, True)
    assert (await caller.ask(replace(ASK, query="one more", step=2))).status is CallStatus.OK


async def test_failures_are_replayed_too(pool: Any, ledger_url: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        query = (await request.json())["messages"][1]["content"]
        if query.endswith("0"):
            await asyncio.sleep(9)
        return web.Response(status=400, text=query)

    asked = asks(2)
    card = pool.card(await pool.provider(handler))
    recorded = await ask_once(pool.caller([card], ledger_url, total_timeout_s=3), asked)
    assert [call.status for call in recorded] == [CallStatus.TIMEOUT, CallStatus.PROVIDER_ERROR]
    refused = await ask_once(pool.caller([card], ledger_url, run="poor", cap_usd_per_run=1e-9), asked)
    assert {call.status for call in refused} == {CallStatus.OVER_BUDGET}
    # Another run asked the same at another place, and was answered.
    _, base_url = await pool.server()
    good = pool.card(base_url)
    elsewhere = [replace(request, episode="elsewhere") for request in asked]
    await ask_once(pool.caller([good], ledger_url, run="other"), elsewhere)
    replayer = pool.caller([card], ledger_url, ledger="replay", replay_run="run")
    # A replay fails in the same way, and says that a retry is useless; everything else is as recorded.
    assert [await replayer.ask(request) for request in asked] == [replace(call, final=True) for call in recorded]
    latest = pool.caller([card], ledger_url, run="new", ledger="replay")
    assert [await latest.ask(request) for request in asked] == [replace(call, final=True) for call in refused]
    nobody = pool.caller([card], ledger_url, ledger="replay", replay_run="nobody")
    assert (await nobody.ask(asked[0])).voids


async def test_a_place_that_was_asked_again_replays_its_reply(pool: Any, ledger_url: str) -> None:
    _, base_url = await pool.server(null_content=1.0)
    await ask_once(pool.caller([pool.card(base_url)], ledger_url), [ASK])
    _, base_url = await pool.server()
    [answered] = await ask_once(pool.caller([pool.card(base_url)], ledger_url), [ASK])
    assert await pool.caller([pool.card(base_url)], ledger_url, ledger="replay").ask(ASK) == answered


async def refuses(pool: Any, mode: str, url: str) -> None:
    server, base_url = await pool.server()
    settings = PoolSettings.model_validate({"ledger": mode, "ledger_url": url})
    caller = CandidateCaller([pool.card(base_url)], settings)
    with pytest.raises(LedgerError, match=r"there is no ledger at|holds no ledger"):
        await caller.check()
    with pytest.raises(LedgerError):
        await caller.ask(ASK)
    await caller.close()
    assert calls_of(server) == 0


async def test_a_replay_makes_no_ledger(pool: Any, ledger_url: str, tmp_path: Path) -> None:
    await refuses(pool, "replay", ledger_url)
    assert files_of(tmp_path) == []


async def test_a_cache_makes_no_file_of_a_name_that_may_be_mistyped(pool: Any, tmp_path: Path) -> None:
    await refuses(pool, "cache", f"sqlite:///{tmp_path / 'ledgre.sqlite'}")
    assert files_of(tmp_path) == []


@pytest.mark.parametrize("name", ["ledger.sqlite", "sqlite:///ledger.sqlite"])
async def test_a_relative_ledger_is_where_the_caller_was_made(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _, base_url = await pool.server()
    monkeypatch.chdir(tmp_path)
    caller = pool.caller([pool.card(base_url)], ledger_url=name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await caller.ask(ASK)
    assert await booked(str(tmp_path)) == pytest.approx(PRICE)
    assert files_of(Path.cwd()) == []


@pytest.mark.parametrize("secret", ["password", "PassFile", "sslpassword"])
def test_a_ledgers_url_holds_no_secret(secret: str) -> None:
    with pytest.raises(ValidationError, match=f"must hold no {secret.lower()}.*PGPASSWORD") as caught:
        PoolSettings(ledger_url=f"postgresql://me@host/calls?sslmode=require&{secret}=tops3cret")
    assert "tops3cret" not in str(caught.value)


async def test_the_running_total_starts_with_what_is_settled(pool: Any, ledger_url: str) -> None:
    """A call that a dead process left open is asked again, and must not be counted twice."""
    _, base_url = await pool.server()
    gone = await Ledger.open(ledger_url, run="run")
    await gone.begin(CallEntry("a", CallPlace(1, "e", 0, 0), "small", "host", "h", "{}", 0.5, time.time()))
    await gone.begin(CallEntry("b", CallPlace(1, "e", 0, 1), "small", "host", "h", "{}", 0.5, time.time()))
    await gone.settle("b", Settled("ok", cost_usd=0.25))
    await gone.close()
    caller = pool.caller([pool.card(base_url)], ledger_url)
    assert caller.stats().usd["small"] == 0
    assert (await caller.report()).usd["small"] == 0.25


@pytest.mark.parametrize("mode", ["record", "cache"])
async def test_closing_ends_the_calls_under_way_and_settles_them(pool: Any, ledger_url: str, mode: str) -> None:
    server, base_url = await pool.server(hang=1.0)
    _, failing = await pool.server(server_error=1.0)
    cards = [pool.card(base_url), pool.card(failing, "large")]
    caller = pool.caller(cards, ledger_url, ledger=mode, max_attempts=9, backoff_s=3, max_in_flight=2)
    asked = [*asks(3), replace(ASK, model="large")]  # one waits for a slot, one for its next attempt
    tasks = [asyncio.create_task(caller.ask(request)) for request in asked]
    await pool.until(lambda: server.stats()["in_flight"] == 2 and caller.stats().attempts == 3)
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await caller.close()
    assert time.monotonic() - started < 2
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, PoolError)
        assert "closed" in str(outcome)
    engine = create_engine(database_url(ledger_url))
    with engine.connect() as connection:
        found = connection.execute(text("SELECT status FROM ledger_calls")).scalars().all()
    engine.dispose()
    assert found == ["cancelled"] * 3
    assert caller.stats().in_flight == 0


async def test_a_cancelled_call_that_can_not_be_settled_is_told_of(
    pool: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, base_url = await pool.server(hang=1.0)
    caller = pool.caller([pool.card(base_url)], str(tmp_path / "ledger.sqlite"))
    task = asyncio.create_task(caller.ask(ASK))
    await pool.until(lambda: server.stats()["in_flight"])
    with sqlite3.connect(tmp_path / "ledger.sqlite") as vandal:
        vandal.execute("DELETE FROM ledger_calls")
    vandal.close()
    task.cancel()
    await asyncio.wait([task])
    await caller.close()
    assert "the outcome of a cancelled call is not in the ledger" in caplog.text


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ledgers wait for a lock only long enough for the test to see it."""
    monkeypatch.setattr(Ledger, "open", partial(Ledger.open, busy_timeout_s=0.2))


@pytest.mark.usefixtures("impatient")
async def test_a_caller_whose_ledger_is_locked_sends_nothing_and_goes_on_after(pool: Any, tmp_path: Path) -> None:
    server, base_url = await pool.server()
    caller = pool.caller([pool.card(base_url)], str(tmp_path / "ledger.sqlite"))
    await caller.check()
    holder = sqlite3.connect(tmp_path / "ledger.sqlite")
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="is locked by another process"):
        await caller.ask(ASK)
    assert (calls_of(server), caller.stats().reserved_usd) == (0, 0)
    holder.rollback()
    holder.close()
    assert (await caller.ask(ASK)).status is CallStatus.OK


async def test_a_call_that_waits_too_long_for_its_ledger_is_no_fault_of_the_provider(pool: Any, tmp_path: Path) -> None:
    server, base_url = await pool.server()
    caller = pool.caller([pool.card(base_url)], str(tmp_path / "ledger.sqlite"), total_timeout_s=0.3)
    await caller.check()
    breaker = next(iter(caller._endpoints.values())).breaker
    failures: list[int] = []
    breaker.failed = lambda: failures.append(1)  # type: ignore[method-assign]
    holder = sqlite3.connect(tmp_path / "ledger.sqlite")
    holder.execute("BEGIN IMMEDIATE")
    waiting = asyncio.gather(*(caller.ask(request) for request in asks(8)))
    await asyncio.sleep(0.8)
    holder.rollback()
    holder.close()
    calls = await waiting
    assert {call.status for call in calls} == {CallStatus.TIMEOUT}
    assert "not sent within 0.3 s (pool.total_timeout_s): it waited for the ledger" in calls[0].error
    assert (calls_of(server), failures) == (0, [])
    await caller.close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as reader:
        assert reader.execute("SELECT status, count(*) FROM ledger_calls GROUP BY 1").fetchall() == [("timeout", 8)]
    reader.close()


async def test_a_caller_refuses_a_newer_ledger(pool: Any, ledger_url: str) -> None:
    server, base_url = await pool.server()
    await (await Ledger.open(ledger_url, run="run")).close()
    engine = create_engine(database_url(ledger_url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE ledger_schema SET version = 99"))
    engine.dispose()
    with pytest.raises(LedgerError, match="use the newer router-r1"):
        await pool.caller([pool.card(base_url)], ledger_url).ask(ASK)
    assert calls_of(server) == 0


FULL_DISK = """
import asyncio, resource, signal, sys
from actors.pool.caller import CandidateCaller
from actors.pool.calls import CallRequest
from actors.pool.cards import ModelCard
from actors.ledger.ledger import LedgerError
from actors.pool.settings import PoolSettings

async def main(base_url, path):
    card = ModelCard(name="small", descriptor="d", base_url=base_url, price_out_usd_per_mtok=1.0)
    caller = CandidateCaller([card], PoolSettings(), ledger_url=path, run="run")
    await caller.check()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    for number in range(100):
        await caller.ask(CallRequest("small", "small", "x" * 100_000, episode=f"e{number}"))

try:
    asyncio.run(main(*sys.argv[1:]))
except LedgerError as error:
    print(error)
"""


async def test_a_caller_whose_disk_is_full_sends_nothing_more(pool: Any, tmp_path: Path) -> None:
    server, base_url = await pool.server()
    path = str(tmp_path / "ledger.sqlite")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FULL_DISK, base_url, path, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert b"full" in output
    with sqlite3.connect(path) as reader:
        [(kept,)] = reader.execute("SELECT count(*) FROM ledger_calls").fetchall()
    reader.close()
    assert 0 < calls_of(server) <= kept < 100
