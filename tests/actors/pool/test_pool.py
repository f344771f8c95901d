"""The pool: each endpoint has one caller, and a late or dead caller becomes a status of its calls."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from actors.ledger.ledger import Ledger
from actors.pool.caller import CallerStats
from actors.pool.calls import CallRequest
from actors.pool.cards import ModelCard
from actors.pool.pool import CandidatePool, _strategy, assign_endpoints
from actors.pool.settings import PoolSettings
from actors.pool.transport import PoolError
from rewards.transcript import CallStatus


def card(name: str, port: int) -> ModelCard:
    return ModelCard(
        name=name, descriptor="for tests", base_url=f"http://127.0.0.1:{port}/v1", price_out_usd_per_mtok=1.0
    )


CARDS = [card("a", 1), card("b", 2), card("c", 1), card("d", 3)]


def names(shares: list[list[ModelCard]]) -> list[list[str]]:
    return [[card.name for card in share] for share in shares]


@pytest.mark.parametrize(
    ("callers", "expected"),
    [
        (1, [["a", "c", "b", "d"]]),
        (2, [["a", "c", "d"], ["b"]]),
        (3, [["a", "c"], ["b"], ["d"]]),
        (9, [["a", "c"], ["b"], ["d"]]),
    ],
)
def test_cards_of_one_endpoint_have_one_owner(callers: int, expected: list[list[str]]) -> None:
    assert names(assign_endpoints(CARDS, PoolSettings(callers=callers))) == expected


def test_an_overriding_url_is_one_endpoint_and_has_one_owner() -> None:
    settings = PoolSettings(callers=3, base_url="http://127.0.0.1:9/v1")
    assert names(assign_endpoints(CARDS, settings)) == [["a", "b", "c", "d"]]


class Caller:
    """A candidate caller that has spent some money and then, if told so, stops answering."""

    def __init__(self, usd: dict[str, float]) -> None:
        self.usd = usd
        self.asleep = False

    async def sleep(self) -> None:
        self.asleep = True

    async def sleep_on(self) -> None:
        await asyncio.sleep(600)

    async def report(self) -> CallerStats:
        if self.asleep:
            await asyncio.sleep(600)
        return CallerStats(calls=1, attempts=1, status=Counter(ok=1), usd=Counter(self.usd))

    async def ask(self, request: CallRequest) -> None:
        await asyncio.sleep(600)

    async def close(self) -> None:
        pass


@pytest.fixture
def pool(ray_cluster: None) -> Iterator[CandidatePool]:
    actor = ray.remote(num_cpus=0)(Caller)
    callers: tuple[Any, ...] = (actor.remote({"a": 1.0, "c": 0.5}), actor.remote({"b": 2.0}))
    settings = PoolSettings(queue_timeout_s=0.1, total_timeout_s=0.1)
    pool = CandidatePool(callers, {"a": 0, "c": 0, "b": 1}, settings, {card.name: card for card in CARDS})
    yield pool
    pool.close()


@pytest.fixture
def start(ray_cluster: None) -> Iterator[Callable[..., CandidatePool]]:
    """Starts pools of real callers, and ends them after the test."""
    pools: list[CandidatePool] = []

    def start(cards: list[ModelCard], ledger_url: str | None = None, **settings: object) -> CandidatePool:
        started = CandidatePool.start(cards, PoolSettings.model_validate(settings), ledger_url=ledger_url, run="run")
        pools.append(started)
        return started

    yield start
    for started in pools:
        started.close()


@pytest.mark.engine
@pytest.mark.parametrize("dead", [True, False], ids=["dead", "slow"])
def test_what_a_lost_caller_had_spent_is_not_forgotten(
    pool: CandidatePool, caplog: pytest.LogCaptureFixture, dead: bool
) -> None:
    before = pool.spent_usd()
    assert before == {"a": 1.0, "c": 0.5, "b": 2.0}
    if dead:
        ray.kill(pool.callers[0])
        with pytest.raises(RayActorError):
            ray.get(pool.callers[0].sleep_on.remote(), timeout=30)
    else:
        ray.get(pool.callers[0].sleep.remote(), timeout=30)
    with caplog.at_level(logging.WARNING):
        assert pool.stats(timeout_s=5).usd == before
    assert "candidate caller 0 (of a, c)" in caplog.text


@pytest.mark.engine
async def test_a_caller_that_hangs_is_a_timeout_that_names_it(
    pool: CandidatePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.pool.pool._ASK_GRACE_S", 0.5)
    call = await pool.ask(CallRequest("b", "b", "q"))
    assert call.status is CallStatus.TIMEOUT
    assert "candidate caller 1 (of b)" in call.error
    assert call.latency_s >= 0.7


@pytest.mark.engine
async def test_a_caller_that_died_is_named(pool: CandidatePool) -> None:
    ray.kill(pool.callers[1])
    call = await pool.ask(CallRequest("b", "b", "q"))
    assert call.status is CallStatus.PROVIDER_ERROR
    assert "candidate caller 1 (of b) died" in call.error
    assert call.cost_usd > 0


@pytest.mark.engine
async def test_cancelling_a_call_ends_it_down_to_its_connection(
    servers: Any, start: Callable[..., CandidatePool]
) -> None:
    server, base_url = await servers.server(hang=1.0)
    pool = await asyncio.to_thread(start, [servers.card(base_url)])
    task = asyncio.create_task(pool.ask(CallRequest("small", "small", "q")))
    await servers.until(lambda: server.stats()["in_flight"] == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await servers.until(lambda: server.stats()["in_flight"] == 0)
    stats = await asyncio.to_thread(pool.stats)
    assert (stats.calls, stats.cancelled, stats.in_flight) == (1, 1, 0)


@pytest.mark.engine
async def test_a_killed_caller_is_restarted_and_books_nothing_twice(
    servers: Any, start: Callable[..., CandidatePool], ledger_url: str
) -> None:
    server, base_url = await servers.server(servers.echo(latency_s=0.4))
    url = ledger_url
    pool = await asyncio.to_thread(start, [servers.card(base_url)], url, max_in_flight=10, cap_usd_per_run=1.0)
    pid = await pool.callers[0].__ray_call__.remote(lambda caller: os.getpid())
    asked = [CallRequest("small", "small", f"question {n}", step=1, episode=f"e{n}") for n in range(30)]
    calls = asyncio.gather(*map(pool.ask, asked))
    await servers.until(lambda: server.stats()["calls"].get("small", 0) >= 15)  # ten have ended, others are in progress
    os.kill(pid, signal.SIGKILL)
    answered = await calls
    assert [call.reply for call in answered] == [f"echo: question {n}" for n in range(30)]
    assert server.stats()["calls"]["small"] > 30  # calls in progress were asked again
    ledger = await Ledger.open(url, run="run")
    try:
        booked = sum((await ledger.spent_usd(run="run")).values())
    finally:
        await ledger.close()
    assert booked == pytest.approx(sum(call.cost_usd for call in answered))
    assert await pool.callers[0].__ray_call__.remote(lambda caller: os.getpid()) != pid
    spent = await asyncio.to_thread(pool.spent_usd)
    assert sum(spent.values()) == pytest.approx(booked)


async def pid_of(actor: Any) -> int:
    return int(await actor.__ray_call__.remote(lambda _: os.getpid()))


@pytest.mark.engine
async def test_a_caller_without_a_ledger_that_is_killed_does_not_forget_the_cap(
    servers: Any, start: Callable[..., CandidatePool]
) -> None:
    server, base_url = await servers.server()
    card = servers.card(base_url, context_tokens=64, max_output_tokens=32)  # its worst price is 5 times a call's cost
    cap = 20.5 * 32e-6
    pool = await asyncio.to_thread(start, [card], ledger="off", cap_usd_per_run=cap, cap_usd_per_step=cap)
    asked = [CallRequest("small", "small", "who wrote it", step=1) for _ in range(10)]
    first = await asyncio.gather(*map(pool.ask, asked))
    assert {call.status for call in first} == {CallStatus.OK}
    os.kill(await pid_of(pool.callers[0]), signal.SIGKILL)
    second = await asyncio.gather(*map(pool.ask, [*asked] * 3))
    assert {call.status for call in second} == {CallStatus.OK, CallStatus.OVER_BUDGET}
    assert server.stats()["calls"]["small"] <= 20


@pytest.mark.engine
async def test_a_killed_purse_reads_what_was_spent_and_holds_the_cap(
    servers: Any, start: Callable[..., CandidatePool], ledger_url: str
) -> None:
    (one, first), (two, second) = await servers.server(), await servers.server()
    tight = {"context_tokens": 64, "max_output_tokens": 32}
    cards = [servers.card(first, "small", **tight), servers.card(second, "large", **tight)]
    pool = await asyncio.to_thread(start, cards, ledger_url, callers=2, cap_usd_per_run=40.5 * 32e-6)

    async def ask(count: int, name: str) -> list[CallStatus]:
        asked = [
            CallRequest(("small", "large")[n % 2], "x", "who wrote it", episode=f"{name} {n}") for n in range(count)
        ]
        return [call.status for call in await asyncio.gather(*map(pool.ask, asked))]

    assert await ask(20, "before") == [CallStatus.OK] * 20
    pid = await pid_of(pool.purse)
    os.kill(pid, signal.SIGKILL)
    after = await ask(60, "after")
    assert await pid_of(pool.purse) != pid
    assert {*after} == {CallStatus.OK, CallStatus.OVER_BUDGET}
    assert 30 <= sum(sum(server.stats()["calls"].values()) for server in (one, two)) <= 40


@pytest.mark.engine
async def test_without_its_purse_nothing_is_sent(servers: Any, start: Callable[..., CandidatePool]) -> None:
    server, base_url = await servers.server()
    pool = await asyncio.to_thread(start, [servers.card(base_url)], ledger="off", cap_usd_per_run=1.0)
    os.kill(await pid_of(pool.purse), signal.SIGKILL)
    with pytest.raises(PoolError, match="the purse that holds the pool's caps died"):
        await pool.ask(CallRequest("small", "small", "who wrote it"))
    assert server.stats()["calls"] == {}


@pytest.mark.engine
async def test_what_a_dead_caller_had_reserved_is_not_reserved_for_ever(
    servers: Any, start: Callable[..., CandidatePool]
) -> None:
    (hangs, first), (_, second) = await servers.server(hang=1.0), await servers.server()
    cards = [servers.card(first, "small"), servers.card(second, "large")]
    pool = await asyncio.to_thread(start, cards, callers=2, cap_usd_per_run=1.0, caller_restarts=0)
    asking = asyncio.create_task(pool.ask(CallRequest("small", "small", "q")))
    await servers.until(lambda: hangs.stats()["in_flight"])
    book = (await pool.purse.totals.remote())["cap_usd_per_run"]
    assert book["reserved"] > 0
    os.kill(await pid_of(pool.callers[0]), signal.SIGKILL)
    call = await asking
    assert "candidate caller 0 (of small) died" in call.error
    for _ in range(100):
        after = (await pool.purse.totals.remote())["cap_usd_per_run"]
        if not after["reserved"]:
            break
        await asyncio.sleep(0.05)
    assert after == {"cap": 1.0, "spent": book["reserved"], "reserved": 0}
    assert (await pool.ask(CallRequest("large", "large", "q"))).status is CallStatus.OK


@pytest.mark.engine
async def test_closing_settles_what_is_under_way(
    servers: Any, start: Callable[..., CandidatePool], ledger_url: str
) -> None:
    server, base_url = await servers.server(hang=1.0)
    pool = await asyncio.to_thread(start, [servers.card(base_url)], ledger_url)
    asked = [asyncio.create_task(pool.ask(CallRequest("small", "small", "q", episode=f"e{n}"))) for n in range(5)]
    await servers.until(lambda: server.stats()["in_flight"] == 5)
    await asyncio.to_thread(pool.close)
    await asyncio.wait(asked)
    ledger = await Ledger.open(ledger_url, run="run")
    try:
        settled = await ledger.spent_usd(run="run", settled=True)
        assert settled == await ledger.spent_usd(run="run")  # no call is open
        assert settled["small"] > 0
    finally:
        await ledger.close()


@pytest.mark.engine
async def test_a_sqlite_ledger_keeps_callers_and_purse_on_its_node(
    servers: Any, start: Callable[..., CandidatePool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines can't share a ledger in a file; its path is absolute, because workers have other working folders."""
    _, base_url = await servers.server()
    cards = [servers.card(base_url, "small"), servers.card(f"{base_url}/", "large")]
    monkeypatch.chdir(tmp_path)
    pool = await asyncio.to_thread(start, cards, "calls.sqlite", callers=2, cap_usd_per_run=1.0)
    assert (await pool.ask(CallRequest("small", "small", "q"))).status is CallStatus.OK
    assert (tmp_path / "calls.sqlite").exists()
    here = ray.get_runtime_context().get_node_id()
    strategy = _strategy(str(tmp_path / "calls.sqlite"))
    assert (strategy.node_id, strategy.soft) == (here, False)
    assert _strategy("postgresql://me@host/calls") == _strategy(None) == "SPREAD"


@pytest.mark.engine
async def test_callers_share_the_caps(servers: Any, start: Callable[..., CandidatePool]) -> None:
    (one, first), (two, second) = await servers.server(), await servers.server()
    cards = [servers.card(first, "small"), servers.card(second, "large")]
    price = 32e-6  # price of a call to the echo
    pool = await asyncio.to_thread(start, cards, callers=2, cap_usd_per_run=100.5 * price)
    assert len(pool.callers) == 2
    asked = [CallRequest(("small", "large")[n % 2], "x", "who wrote it", max_tokens=64) for n in range(300)]
    calls = await asyncio.gather(*map(pool.ask, asked))
    served = sum(call.status is CallStatus.OK for call in calls)
    assert {call.status for call in calls} == {CallStatus.OK, CallStatus.OVER_BUDGET}
    assert 80 <= served <= 100
    assert sum(sum(server.stats()["calls"].values()) for server in (one, two)) == served
    spent = await asyncio.to_thread(pool.spent_usd)
    assert sum(spent.values()) == pytest.approx(served * price)
    assert min(spent.values()) > 0


@pytest.mark.engine
def test_a_check_that_is_late_is_an_error_that_names_the_deadline(ray_cluster: None) -> None:
    started = time.monotonic()
    with pytest.raises(PoolError, match=r"candidate caller 0 \(of a\).* within check_timeout_s=0\.001"):
        CandidatePool.start([card("a", 1)], PoolSettings(), check_timeout_s=0.001)
    assert time.monotonic() - started < 30
