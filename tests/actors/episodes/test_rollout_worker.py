"""The rollout worker: if its engine is lost, another worker continues its episodes."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ANSWER, MENU, QUESTION, SEARCH, TOKENIZER

from actors.engine.generation import Generation
from actors.engine.policy_engine import EngineDied, EngineLost
from actors.episodes import rollout_worker
from actors.episodes.episode import EpisodeRequest, Unfinished
from actors.episodes.rollout_worker import RolloutWorker
from actors.episodes.trajectory import Trajectory
from actors.pool.calls import CallRequest
from actors.settings import EngineSettings, EpisodeSettings
from rewards.transcript import CallStatus, RouteCall

EPISODES = 6
REQUESTS = [EpisodeRequest(QUESTION, MENU, "g", seed, step=3) for seed in range(EPISODES)]


class Engine:
    """Samples from the seed, after random pauses; is lost after a given number of turns."""

    def __init__(self, lives: int = 10**9, turn_s: float = 0.0) -> None:
        self.settings = EngineSettings(max_model_len=512, max_num_seqs=4)
        self.version = 3
        self.turns = 0
        self.lives = lives
        self.turn_s = turn_s
        self.running = True

    async def generate(self, prompt_ids: list[int], *, seed: int, **_: Any) -> Generation:
        rng = random.Random(f"{seed}-{len(prompt_ids)}")
        await asyncio.sleep(self.turn_s + rng.random() / 1000)
        if self.turns >= self.lives:
            raise EngineDied("the engine's processes died")
        self.turns += 1
        text = rng.choice((SEARCH, SEARCH, ANSWER))
        ids = TOKENIZER.encode(text, add_special_tokens=False)
        return Generation(ids, [-rng.random() for _ in ids], [self.version] * len(ids), text, "stop")

    async def start(self) -> None:
        self.running = True

    async def shutdown(self) -> None:
        self.running = False


def hire(engine: Engine) -> RolloutWorker:
    async def ask(request: CallRequest) -> RouteCall:
        rng = random.Random(f"{request.episode}-{request.turn}")
        await asyncio.sleep(rng.random() / 1000)
        reply = f"it is number {rng.randrange(9)} ."
        return RouteCall(request.requested, request.model, request.query, CallStatus.OK, reply, 3, 5, 0.001, 0.1)

    pool = SimpleNamespace(ask=ask, settings=SimpleNamespace(ledger="record"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollout_worker, "import_module", lambda name: None)  # vLLM would take ten seconds
        made = RolloutWorker("unused", engine.settings, EpisodeSettings(prompt="compact"), pool, "gloo", 0)  # type: ignore[arg-type]
    made.engine, made.tokenizer = engine, TOKENIZER  # type: ignore[assignment]
    return made


def told(trajectories: list[Trajectory]) -> list[tuple[Any, ...]]:
    return [
        (
            t.seed,
            t.token_ids.tolist(),
            t.logprobs.tolist(),
            t.versions.tolist(),
            t.sampled.tolist(),
            t.transcript,
            t.prompt,
        )
        for t in trajectories
    ]


async def undisturbed() -> tuple[list[Trajectory], int]:
    engine = Engine()
    worker = hire(engine)
    played = await worker.rollout(REQUESTS)
    assert await worker.salvage() == {}
    return played, engine.turns


@given(st.lists(st.integers(0, 12), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_what_an_engine_left_is_played_on_to_the_same_end(lives: list[int]) -> None:
    async def run() -> None:
        whole, turns = await undisturbed()
        jobs: dict[str, EpisodeRequest | Unfinished | Trajectory] = {r.episode: r for r in REQUESTS}
        played_turns = 0
        for each in [*lives, 10**9]:
            worker = hire(engine := Engine(each))
            left = [job for job in jobs.values() if not isinstance(job, Trajectory)]
            try:
                jobs |= {f"{t.group}/{t.seed}": t for t in await worker.rollout(left)}
            except EngineLost:
                jobs |= await worker.salvage()
            played_turns += engine.turns
        assert told([jobs[r.episode] for r in REQUESTS]) == told(whole)  # type: ignore[misc]
        # Each loss repeats at most the turns whose calls were in progress.
        assert played_turns <= turns + len(lives) * EPISODES

    asyncio.run(run())


async def test_a_cancelled_rollout_leaves_nothing_to_salvage() -> None:
    worker = hire(Engine(turn_s=60))
    task = asyncio.create_task(worker.rollout(REQUESTS))
    await asyncio.sleep(0.01)
    assert list(await worker.salvage()) == [r.episode for r in REQUESTS[:4]]  # max_num_seqs have begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await worker.salvage() == {}
    assert worker.admission.generating == worker.admission.under_way == 0


async def test_an_engine_put_in_place_of_one_that_died_plays_on_and_nothing_old_is_played_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollout_worker, "whereabouts", lambda: None)  # it would ask Ray
    whole, turns = await undisturbed()
    first, second = Engine(lives=4), Engine()
    worker = hire(first)
    calling, proceed = asyncio.Event(), asyncio.Event()
    ask = worker.pool.ask

    async def ask_slowly(request: CallRequest) -> RouteCall:
        calling.set()
        await proceed.wait()
        return await ask(request)

    worker.pool = SimpleNamespace(ask=ask_slowly)  # type: ignore[assignment]
    under_way = [asyncio.create_task(worker.rollout([request])) for request in REQUESTS]
    await calling.wait()
    ended, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    assert {type(task.exception()) for task in ended} == {EngineDied}  # two may die within a millisecond
    salvaged = await worker.salvage()
    worker._make_engine = lambda tell: second  # type: ignore[assignment,misc]
    await worker.restart()
    assert not first.running
    played_on = asyncio.create_task(worker.rollout([salvaged.get(r.episode, r) for r in REQUESTS]))  # type: ignore[misc]
    await asyncio.sleep(0.05)
    proceed.set()
    assert told(await played_on) == told(whole)
    assert {type(end) for end in await asyncio.gather(*under_way, return_exceptions=True)} == {EngineDied}
    assert second.turns <= turns  # turns whose calls were in progress are sampled again, with the same result
    assert await worker.salvage() == {}
    assert worker.admission.generating == worker.admission.under_way == 0
