"""Admission: new episodes start while the engine has room; an episode that waits for a candidate takes no room."""

from __future__ import annotations

import asyncio
import random

import pytest

from actors.engine.admission import Admission
from actors.engine.state import EngineState


async def play(admission: Admission, turns: list[float], waits: list[float], seen: list[int]) -> None:
    async with admission.episode() as place:
        for turn_s, wait_s in zip(turns, waits, strict=True):
            async with place.turn():
                seen.append(admission.generating)
                await asyncio.sleep(turn_s)
            await asyncio.sleep(wait_s)


async def test_as_many_are_under_way_as_keep_the_engine_at_its_target() -> None:
    """Calls take nine times as long as turns, so ten times as many episodes are in progress as generate."""
    admission, seen, most = Admission(4), [], 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, admission.under_way)
            await asyncio.sleep(0.002)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(play(admission, [0.01], [0.09], seen) for _ in range(80)))
    watching.cancel()
    assert max(seen) == 4
    assert most > 20
    assert admission.generating == admission.under_way == 0


async def test_an_episode_under_way_is_never_held_back() -> None:
    admission, seen = Admission(1), []
    first = asyncio.create_task(play(admission, [0.01, 0.05], [0.02, 0.0], seen))
    await asyncio.sleep(0.015)  # the episode waits for its candidate now
    second = asyncio.create_task(play(admission, [0.1], [0.0], seen))
    await asyncio.gather(first, second)
    assert max(seen) == 2


async def test_episodes_start_in_the_order_they_came() -> None:
    admission, started = Admission(1), []

    async def one(number: int) -> None:
        async with admission.episode() as place, place.turn():
            started.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(one(number) for number in range(20)))
    assert started == list(range(20))


@pytest.mark.parametrize("seed", range(5))
async def test_no_place_is_lost_to_cancelled_or_failed_episodes(seed: int) -> None:
    rng, admission = random.Random(seed), Admission(3)

    async def fail() -> None:
        async with admission.episode():
            await asyncio.sleep(rng.random() / 100)
            raise ValueError("the prompt is too long")

    tasks = [
        asyncio.create_task(fail() if rng.random() < 0.3 else play(admission, [0.01] * 2, [0.01] * 2, []))
        for _ in range(60)
    ]
    for task in rng.sample(tasks, 20):
        await asyncio.sleep(rng.random() / 200)
        task.cancel()
    await asyncio.wait(tasks)
    assert admission.generating == admission.under_way == 0
    async with asyncio.timeout(1), admission.episode():
        pass


async def test_the_target_falls_to_what_fits_in_the_engines_memory_and_comes_back() -> None:
    """The cache first holds three; then it has memory to spare, and all eight generate again."""
    admission, seen = Admission(8), []
    fits = 3

    def step() -> None:
        running = min(fits, admission.generating)
        waiting = admission.generating - running
        admission.hear(EngineState(running, waiting, cache_usage=running / fits))

    async def play_and_tell() -> None:
        async with admission.episode() as place, place.turn():
            step()
            await asyncio.sleep(0.002)
            step()
            seen.append(admission.generating)

    await asyncio.gather(*(play_and_tell() for _ in range(60)))
    assert set(seen[:50]) == {fits, fits + 1}  # now and then one more is tried, in case it fits again
    fits = 100
    await asyncio.gather(*(play_and_tell() for _ in range(60)))
    assert admission.target == 8
    assert seen[-10] == 8


@pytest.mark.parametrize("state", [EngineState(2, 0, 1.0), EngineState(2, 9, 0.5)], ids=["full", "a long prompt"])
async def test_what_does_not_wait_for_memory_does_not_lower_the_target(state: EngineState) -> None:
    admission = Admission(8)
    admission.hear(state)
    assert admission.target == 8


async def test_an_engine_with_room_for_none_is_given_one() -> None:
    admission = Admission(8)
    admission.hear(EngineState(0, 9, 1.0))
    assert admission.target == 1
    async with asyncio.timeout(1), admission.episode():
        pass
