"""Limits per minute and slots: rates hold, turns are fair, and the number of slots adapts to the provider."""

from __future__ import annotations

import asyncio

import pytest

from actors.pool.limits import Gate, TokenBucket


def test_a_bucket_lets_a_second_through_at_once_and_then_its_rate() -> None:
    bucket = TokenBucket(600)  # ten a second
    waits = [bucket.take(1) for _ in range(15)]
    assert waits[:10] == [0.0] * 10
    assert waits[10:] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], abs=0.05)


def test_a_slow_bucket_lets_one_through_at_once() -> None:
    bucket = TokenBucket(6)
    assert [bucket.take(1), bucket.take(1)] == pytest.approx([0, 10], abs=0.05)


def test_more_than_a_bucket_holds_waits_for_the_rest() -> None:
    bucket = TokenBucket(60_000)
    assert bucket.take(3000) == pytest.approx(2, abs=0.05)
    assert bucket.take(1) == pytest.approx(2, abs=0.05)  # it waits behind the large one, although it is small


def test_what_is_given_back_can_be_taken_again() -> None:
    bucket = TokenBucket(60)
    bucket.take(1)
    bucket.give_back(1)
    assert bucket.take(1) == 0
    bucket.give_back(-5)  # the call used five more than it took
    assert bucket.take(1) == pytest.approx(6, abs=0.05)


async def test_slots_are_given_out_first_come_first_served() -> None:
    gate = Gate(2)
    order: list[int] = []

    async def call(number: int) -> None:
        await gate.enter()
        order.append(number)
        await asyncio.sleep(0.001)
        gate.leave()

    await asyncio.gather(*map(call, range(20)))
    assert order == list(range(20))
    assert gate.in_flight == 0


async def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    gate = Gate(1)
    assert gate.try_enter()
    waiter = asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    gate.leave()
    assert not gate.try_enter()
    await waiter
    gate.leave()
    assert gate.try_enter()


@pytest.mark.parametrize("handed_over", [False, True])
async def test_one_that_gives_up_waiting_takes_no_slot_along(handed_over: bool) -> None:
    gate = Gate(1)
    assert gate.try_enter()
    first, second = asyncio.create_task(gate.enter()), asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    if handed_over:
        gate.leave()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    if not handed_over:
        gate.leave()
    await asyncio.wait_for(second, 1)
    assert gate.in_flight == 1


def test_the_limit_halves_in_a_window_of_rejections_and_climbs_one_in_a_window_of_served_calls() -> None:
    gate = Gate(64)
    for _ in range(64):
        gate.rejected()
    assert gate.limit == 32
    for _ in range(32):
        assert gate.try_enter()
    assert not gate.try_enter()
    for _ in range(33):
        gate.served()
    assert gate.limit == 33
    for _ in range(1000):
        gate.rejected()
    assert gate.limit == 1  # one slot always remains


def test_the_limit_climbs_only_where_it_is_what_holds_calls_back() -> None:
    gate = Gate(64)
    for _ in range(64):
        gate.rejected()
    assert gate.try_enter()
    for _ in range(100):
        gate.served()
    assert gate.limit == 32
