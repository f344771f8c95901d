"""The purse: no cap is exceeded, each request that a cap can pay for is served, and one purse serves many callers."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.ledger.ledger import CallEntry, CallPlace, Ledger, Settled
from actors.pool.calls import CallRequest
from actors.pool.candidate import worst_usd
from actors.pool.settings import PoolSettings
from actors.pool.shared_purse import SharedPurse
from actors.pool.spend import Caps, Charge, Purse, caps_of
from rewards.transcript import CallStatus

ASK = CallRequest("small", "small", "who wrote it", max_tokens=64)


def charge(name: str, usd: float = 0.4, *, card: str = "small", host: str = "h:1", step: int = 0) -> Charge:
    return Charge(name, "caller", card, host, step, usd)


async def test_what_may_fit_later_waits_and_what_can_not_is_refused() -> None:
    purse = Purse(Caps(run=1.0))
    assert await purse.reserve(charge("a")) == await purse.reserve(charge("b")) == ""
    third = asyncio.create_task(purse.reserve(charge("c")))
    await asyncio.sleep(0)
    assert not third.done()
    purse.settle("a", 0.1)
    assert await third == ""
    assert purse.totals() == {"cap_usd_per_run": {"cap": 1.0, "spent": 0.1, "reserved": pytest.approx(0.8)}}
    fourth = asyncio.create_task(purse.reserve(charge("d")))
    await asyncio.sleep(0)
    purse.settle("b", 0.4)
    purse.settle("c", 0.4)
    refusal = await fourth
    assert "0.400000 USD" in refusal
    assert "would break pool.cap_usd_per_run=1: 0.900000 USD are spent; raise the cap" in refusal
    assert await purse.reserve(charge("e", 0.1)) == ""  # to the cent


async def test_those_who_wait_are_served_in_their_order() -> None:
    purse = Purse(Caps(run=1.0))
    assert await purse.reserve(charge("first", 1.0)) == ""
    served: list[int] = []

    async def one(number: int) -> None:
        assert await purse.reserve(charge(str(number), 0.3)) == ""
        served.append(number)
        await asyncio.sleep(0)
        purse.settle(str(number), 0.0)

    tasks = [asyncio.create_task(one(number)) for number in range(10)]
    await asyncio.sleep(0)
    purse.settle("first", 0.0)
    await asyncio.gather(*tasks)
    assert served == list(range(10))


@pytest.mark.parametrize("granted", [False, True])
async def test_one_that_gives_up_waiting_reserves_nothing(granted: bool) -> None:
    purse = Purse(Caps(run=1.0))
    assert await purse.reserve(charge("a", 1.0)) == ""
    first = asyncio.create_task(purse.reserve(charge("b", 1.0)))
    second = asyncio.create_task(purse.reserve(charge("c", 1.0)))
    await asyncio.sleep(0)
    if granted:
        purse.settle("a", 0.0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    if not granted:
        purse.settle("a", 0.0)
    assert await asyncio.wait_for(second, 1) == ""
    purse.settle("c", 0.0)
    assert purse.totals()["cap_usd_per_run"]["reserved"] == 0


async def test_each_cap_counts_what_is_its_own() -> None:
    purse = Purse(Caps(run=10, step=1, provider={"h:1": 2, "dear": 0.5}))
    assert await purse.reserve(charge("a", 1, step=1)) == ""
    purse.settle("a", 1)
    assert "pool.cap_usd_per_step=1: 1.000000 USD are spent in step 1" in await purse.reserve(charge("b", 0.1, step=1))
    assert await purse.reserve(charge("c", 0.9, step=2)) == ""
    purse.settle("c", 0.9)
    assert "cap_usd_per_provider=2: 1.900000 USD are spent at h:1" in await purse.reserve(charge("d", 0.2))
    assert await purse.reserve(charge("e", 0.5, card="dear", host="h:2")) == ""
    purse.settle("e", 0.5)
    assert "at dear" in await purse.reserve(charge("f", 0.01, card="dear", host="h:2"))
    assert purse.totals()["cap_usd_per_run"]["spent"] == pytest.approx(2.4)
    assert caps_of(PoolSettings(cap_usd_per_day=3)) == Caps(day=3)


async def test_what_a_dead_caller_had_reserved_counts_as_spent() -> None:
    purse = Purse(Caps(run=1.0))
    assert await purse.reserve(charge("a", 0.7)) == ""
    await purse.forfeit("another")
    assert purse.totals()["cap_usd_per_run"]["spent"] == 0
    waiting = asyncio.create_task(purse.reserve(charge("b", 0.5)))
    other = asyncio.create_task(purse.reserve(Charge("c", "another", "small", "h:1", 0, 0.2)))
    await asyncio.sleep(0)
    await purse.forfeit("caller")
    purse.settle("a", 0.0)  # settled too late
    assert await waiting != ""  # refused: nobody would send it
    assert await other == ""
    purse.settle("c", 0.0)
    assert purse.totals()["cap_usd_per_run"] == {"cap": 1.0, "spent": 0.7, "reserved": 0}


amounts = st.integers(0, 400_000_000)


@settings(max_examples=40)
@given(st.lists(st.tuples(amounts, st.floats(0, 1)), max_size=30), st.integers(0, 10**9), st.integers(0, 9))
def test_no_cap_is_ever_exceeded_and_no_call_waits_for_ever(
    calls: list[tuple[int, float]], cap: int, seed: int
) -> None:
    """For all requests, settled in any order: `spent + reserved <= cap`."""
    purse = Purse(Caps(run=cap / 1e9, provider={"even": cap / 2e9}))
    draw = random.Random(seed)

    def check() -> None:
        for book in purse.totals().values():
            assert round(1e9 * (book["spent"] + book["reserved"])) <= round(1e9 * book["cap"])

    async def one(number: int, nano: int, share: float) -> None:
        asked = charge(str(number), nano / 1e9, card=("even", "odd")[number % 2])
        if await purse.reserve(asked) == "":
            check()
            for _ in range(draw.randrange(4)):
                await asyncio.sleep(0)
            purse.settle(str(number), share * asked.worst_usd)
            check()

    async def everybody() -> None:
        await asyncio.wait_for(asyncio.gather(*(one(n, *call) for n, call in enumerate(calls))), 10)

    asyncio.run(everybody())


async def spent_before(url: str, run: str, card: str, usd: float, age_s: float = 0.0, step: int = 1) -> None:
    ledger = await Ledger.open(url, run=run)
    id_ = f"{run}-{card}-{step}"
    entry = CallEntry(id_, CallPlace(step, id_, 0, 0), card, "h:1", "hash", "{}", usd, time.time() - age_s)
    await ledger.begin(entry)
    await ledger.settle(entry.id, Settled("ok", cost_usd=usd))
    await ledger.close()


async def test_what_was_spent_before_is_read_from_the_ledger(ledger_url: str) -> None:
    await spent_before(ledger_url, "mine", "small", 1.0)
    await spent_before(ledger_url, "mine", "small", 0.5, step=2)
    await spent_before(ledger_url, "other", "small", 2.0)
    await spent_before(ledger_url, "old", "small", 4.0, age_s=86_400.0)
    await spent_before(ledger_url, "mine", "large", 8.0, age_s=86_400.0)
    purse = Purse(Caps(run=10, step=3, day=10, provider={"h:1": 10, "large": 20}), ledger_url, "mine", {"small": "h:1"})
    await purse.open()
    assert await purse.reserve(charge("a", 0.0, card="large", host="h:2")) == ""
    spent = {name: book["spent"] for name, book in purse.totals().items()}
    assert spent == {
        "cap_usd_per_run": 9.5,
        "cap_usd_per_day": 3.5,
        "cap_usd_per_step 1": 9.0,
        "cap_usd_per_step 2": 0.5,
        "cap_usd_per_provider h:1": 1.5,
        "cap_usd_per_provider large": 8.0,
    }
    assert "9.000000 USD are spent in step 1" in await purse.reserve(charge("b", 0.1, step=1))
    await purse.close()


async def test_runs_side_by_side_share_the_days_cap(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.pool.spend._REREAD_S", 0.05)
    purse = Purse(Caps(day=10), ledger_url, "mine")
    assert await purse.reserve(charge("a", 1.0)) == ""
    purse.settle("a", 1.0)
    other = await Ledger.open(ledger_url, run="other")
    await other.begin(CallEntry("o", CallPlace(1, "e", 0, 0), "small", "h:1", "hash", "{}", 6.0, time.time()))
    await asyncio.sleep(0.1)
    assert "7.000000 USD are spent" in await purse.reserve(charge("b", 4.0))  # 6 of them are reserved by the other
    await other.settle("o", Settled("ok", cost_usd=3.0))
    await asyncio.sleep(0.1)
    assert await purse.reserve(charge("c", 4.0)) == ""
    assert purse.totals()["cap_usd_per_day"] == {"cap": 10.0, "spent": 4.0, "reserved": 4.0}
    await other.close()
    await purse.close()


async def test_at_midnight_the_day_begins_anew_whatever_becomes_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = 20_000 * 86_400.0
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    monkeypatch.setattr("actors.pool.spend._REREAD_S", 0.0)
    wall = time.time()
    await spent_before(url, "other", "small", 2.0, age_s=wall - (day - 60))  # a minute before that midnight
    await spent_before(url, "later", "small", 3.0, age_s=wall - (day + 60))
    ledger_time = time.time
    monkeypatch.setattr("actors.pool.spend.time.time", lambda: day - 30)
    purse = Purse(Caps(day=10, run=10), url, "mine")
    await purse.open()
    monkeypatch.setattr("actors.pool.spend.time.time", lambda: day - 10 * 86_400.0)  # somebody sets the clock back
    assert await purse.reserve(charge("a", 1.0)) == ""
    purse.settle("a", 1.0)
    assert purse.totals()["cap_usd_per_day"]["spent"] == 6.0
    purse._day_ends_s -= 30  # as if this much time had passed
    assert await purse.reserve(charge("b", 0.5)) == ""
    assert purse.totals()["cap_usd_per_day"]["spent"] == 3.0  # spent by the other run after midnight
    assert purse.totals()["cap_usd_per_run"]["spent"] == 1.0
    monkeypatch.setattr("actors.pool.spend.time.time", ledger_time)
    await purse.close()


async def test_a_call_that_would_break_a_cap_is_not_sent(pool: Any) -> None:
    server, base_url = await pool.server()
    card = pool.card(base_url)
    worst = worst_usd(card, ASK)
    caller = pool.caller([card], cap_usd_per_run=worst)
    assert (await caller.ask(ASK)).status is CallStatus.OK
    call = await caller.ask(ASK)
    assert (call.status, call.attempts, call.cost_usd) == (CallStatus.OVER_BUDGET, 0, worst)
    assert "pool.cap_usd_per_run" in call.error
    assert server.stats()["calls"] == {"small": 1}
    assert caller.stats().over_budget == 1


async def test_a_retry_that_would_break_a_cap_is_not_sent(pool: Any) -> None:
    server, base_url = await pool.server(cut_off=1.0)  # cut-off replies are billed, at first by an unknown amount
    card = pool.card(base_url)
    caller = pool.caller([card], cap_usd_per_run=1.5 * worst_usd(card, ASK))
    call = await caller.ask(ASK)
    assert (call.status, call.attempts) == (CallStatus.OVER_BUDGET, 1)
    assert server.stats()["calls"] == {"small": 1}


@pytest.mark.engine  # 10,000 calls
async def test_ten_thousand_calls_race_for_a_cap_that_pays_for_a_thousand(pool: Any) -> None:
    server, base_url = await pool.server(pool.echo(latency_s=0.005))
    card = pool.card(base_url, context_tokens=64, max_output_tokens=32)
    price = 32e-6  # price of a call to the echo; its worst price is 160e-6
    waits = {"connect_timeout_s": 5, "total_timeout_s": 60}  # the one loop has 10,000 calls to start
    caller = pool.caller([card], cap_usd_per_run=1000.5 * price, max_in_flight=100, **waits)
    calls = await asyncio.gather(*(caller.ask(ASK) for _ in range(10_000)))
    served = sum(call.status is CallStatus.OK for call in calls)
    assert {call.error for call in calls if call.status not in (CallStatus.OK, CallStatus.OVER_BUDGET)} == set()
    assert {call.status for call in calls} == {CallStatus.OK, CallStatus.OVER_BUDGET}
    assert 990 <= served <= 1000
    assert caller.stats().usd["small"] == pytest.approx(served * price)
    assert server.stats()["calls"] == {"small": served}


@pytest.mark.engine
async def test_one_purse_serves_callers_in_other_processes(ray_cluster: None) -> None:
    import ray

    actor = ray.remote(Purse).options(num_cpus=0, max_concurrency=1000).remote(Caps(run=1.0))
    first, second = SharedPurse(actor), SharedPurse(actor)
    try:
        assert await first.reserve(charge("a", 0.6)) == ""
        waiting = asyncio.create_task(second.reserve(charge("b", 0.6)))
        given_up = asyncio.create_task(second.reserve(charge("c", 0.4)))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        first.settle("a", 0.1)
        assert await asyncio.wait_for(waiting, 10) == ""
        await second.forfeit("caller")
        assert await actor.totals.remote() == {"cap_usd_per_run": {"cap": 1.0, "spent": 0.7, "reserved": 0}}
        assert "cap_usd_per_run" in await second.reserve(charge("d", 0.4))
    finally:
        ray.kill(actor)
