"""The fleet: real Ray actors die, hang and fail; other workers continue their episodes, once each."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from actors.engine.policy_engine import EngineDied
from actors.episodes.episode import EpisodeRequest, Unfinished
from actors.episodes.menu import Menu
from actors.episodes.trajectory import TokenBuffer, Trajectory
from actors.questions import Question
from actors.stacks import Whereabouts, whereabouts
from benchmarks.benches.scripted_worker import play, write_script
from cluster.players import fleet_player as fleet_policy
from cluster.players.fleet_player import FleetPolicy
from cluster.players.players import PlayedEpisode
from cluster.session.errors import CrewError
from cluster.workers import fleet as module
from cluster.workers.fleet import Fleet
from cluster.workers.play import Play

pytestmark = pytest.mark.engine

QUESTION = Question("q", "world", "what ?", ("sena",))
SCRIPT = write_script(0)


class Worker:
    """A rollout worker without an engine: the name of a group tells it how to behave."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._lost = asyncio.Event()
        self._hangs = self._restarted = False
        self._unfinished: dict[str, Trajectory | Unfinished] = {}
        self.asked: list[str] = []

    async def start(self, pause_s: float = 0.0) -> Whereabouts:
        await asyncio.sleep(pause_s)
        return whereabouts()

    async def restart(self, pause_s: float = 0.0) -> Whereabouts:
        self._restarted, self._lost = True, asyncio.Event()
        return await self.start(pause_s)

    async def hang(self) -> None:
        self._hangs = True

    def hang_for_good(self) -> None:
        time.sleep(600)

    async def ping(self) -> None:
        if self._hangs:
            self.hang_for_good()
        if self._lost.is_set():
            raise EngineDied("the engine's processes died")

    async def rollout(self, jobs: list[EpisodeRequest | Unfinished]) -> list[Trajectory]:
        requests = [job.request if isinstance(job, Unfinished) else job for job in jobs]
        self.asked += [
            f"{request.episode}{'+' if isinstance(job, Unfinished) else ''}"
            for job, request in zip(jobs, requests, strict=True)
        ]
        name = requests[0].group if requests else ""
        if name.startswith("wrong"):
            raise ValueError("the prompt is too long")
        if name.startswith("wait") and self._index == 0 and not self._restarted:
            self._unfinished |= {done.episode: play(SCRIPT, done) for done in requests[:1]}
            self._unfinished |= {begun.episode: Unfinished(begun, TokenBuffer(), (), 1.0) for begun in requests[1:2]}
            await self._lost.wait()
            raise EngineDied("the engine's processes died")
        return [play(SCRIPT, request) for request in requests]

    async def salvage(self) -> dict[str, Trajectory | Unfinished]:
        return self._unfinished

    async def lose_engine(self) -> None:
        self._lost.set()

    async def log(self) -> list[str]:
        return self.asked

    async def die(self) -> None:
        os._exit(1)

    async def shutdown(self) -> None:
        pass


def group(name: str, size: int = 3) -> list[EpisodeRequest]:
    return [EpisodeRequest(QUESTION, Menu(()), name, seed, step=1) for seed in range(size)]


@pytest.fixture
def fleet(ray_cluster: None, tmp_path: Path) -> Iterator[Fleet]:
    kind = ray.remote(Worker).options(num_cpus=0, max_concurrency=100)

    def admit() -> None:
        for worker in made.started():
            worker.ready = True

    hired: list[int] = []

    def hire(index: int) -> Any:
        hired.append(index)
        return kind.remote(index if hired.count(index) == 1 else 100 + index)  # a replacement works

    made = Fleet(
        hire, workers=2, max_restarts=2, start_timeout_s=180, answer_timeout_s=60, admit=admit, stalls=tmp_path
    )
    made.wait_started(2)
    admit()
    yield made
    made.close()


def names(played: list[list[Trajectory]]) -> list[list[tuple[str, int]]]:
    return [[(t.group, t.seed) for t in members] for members in played]


def expected(groups: list[list[EpisodeRequest]]) -> list[list[tuple[str, int]]]:
    return [[(request.group, request.seed) for request in members] for members in groups]


def wait_until_asked(worker: Any, episode: str) -> None:
    until = time.monotonic() + 20
    while episode not in ray.get(worker.actor.log.remote()):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_a_lost_engine_left_is_played_on_by_the_other_and_its_finished_groups_are_kept(fleet: Fleet) -> None:
    groups = [group("wait-0"), group("b"), group("wait-1"), group("c"), group("quick")]
    plays = fleet.submit(groups)
    first = fleet.workers[0]
    assert {p.requests[0].group for p in first.plays} >= {"wait-0", "wait-1"}
    wait_until_asked(first, "wait-1/2")
    ray.get(first.actor.lose_engine.remote())
    assert names(fleet.collect(plays, 30, "limit")) == expected(groups)
    assert fleet.restarts == 1
    asked = ray.get(fleet.workers[1].actor.log.remote())
    for name in ("wait-0", "wait-1"):  # the first episode was done, the second begun, the third not begun
        assert [each for each in asked if each.startswith(name)] == [f"{name}/1+", f"{name}/2"]
    assert all(worker.episodes == 0 for worker in fleet.workers)
    until_started(fleet)
    assert fleet.workers[0] is not first
    assert fleet.workers[0].actor is first.actor  # the process still lives, and gets another engine


def test_a_worker_that_dies_leaves_its_finished_groups_and_the_rest_is_played_again_at_once(fleet: Fleet) -> None:
    groups = [group("wait-0"), group("b"), group("a")]
    plays = fleet.submit(groups)
    first = fleet.workers[0]
    wait_until_asked(first, "wait-0/0")
    finished = [p for p in first.plays if not p.requests[0].group.startswith("wait")]
    ray.wait([p.call for p in finished], num_returns=len(finished), timeout=20)
    first.actor.die.remote()
    played = fleet.collect(plays[:1], 30, "limit")  # nobody waits for the others yet
    assert names(played) == expected(groups[:1])
    assert [each for each in ray.get(fleet.workers[1].actor.log.remote()) if each.startswith("a/")] == (
        [] if plays[2] in finished else ["a/0", "a/1", "a/2"]
    )
    assert names(fleet.collect(plays, 30, "limit")) == expected(groups)


def test_an_episode_that_fails_is_an_error_for_whoever_collects_it_alone(fleet: Fleet) -> None:
    bad, good = fleet.submit([group("wrong"), group("a")])
    ray.wait([bad.call, good.call], num_returns=2, timeout=20)
    assert fleet.peek(bad) is None
    assert fleet.peek(bad) is None  # and again: it must not raise while the last checkpoint is written
    assert names([fleet.peek(good) or []]) == expected([group("a")])
    with pytest.raises(CrewError, match="the prompt is too long"):
        fleet.collect([bad, good], 30, "limit")
    assert fleet.restarts == 0


def test_what_is_collected_holds_nothing_of_the_object_store(fleet: Fleet) -> None:
    plays = fleet.submit([group("a")])
    [members] = fleet.collect(plays, 30, "limit")
    assert all(a.flags.owndata for t in members for a in (t.token_ids, t.sampled, t.logprobs, t.versions))
    assert plays[0].call is None


def test_the_budget_of_restarts_is_kept(fleet: Fleet) -> None:
    for restarts in (1, 2):
        fleet.workers[1].actor.die.remote()
        plays = fleet.submit([group("a"), group("b")])
        fleet.collect(plays, 60, "limit")
        drop_dead_until(fleet, lambda restarts=restarts: fleet.restarts == restarts and len(fleet.started()) == 2)
        for worker in fleet.started():
            worker.ready = True
    ray.kill(fleet.workers[1].actor)
    with pytest.raises(CrewError, match=r"placement\.max_worker_restarts=2"):
        drop_dead_until(fleet, lambda: False)  # a kill is not seen at once
    assert fleet.restarts == 2


def until_started(fleet: Fleet) -> None:
    until = time.monotonic() + 60
    while len(fleet.started()) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)


def drop_dead_until(fleet: Fleet, holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < until
        fleet.drop_dead()
        time.sleep(0.02)


def test_nobody_there_in_time_is_told(fleet: Fleet) -> None:
    plays = [Play(group("late"))]
    for worker in fleet.workers:
        worker.ready = False
    fleet._admit = lambda: None
    with pytest.raises(
        CrewError, match=r"no rollout worker was there to play 1 groups of episodes within 1 s \(limit\)"
    ):
        fleet.collect(plays, 1, "limit")


def test_a_worker_that_hangs_is_replaced_and_what_it_did_is_kept(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PING_EVERY_S", 0.2)
    fleet._answer_timeout_s = 8.0
    groups = [group("wait-0"), group("b")]
    plays = fleet.submit(groups)
    first = fleet.workers[0]
    wait_until_asked(first, "wait-0/0")
    ray.get(first.actor.hang.remote())
    assert names(fleet.collect(plays, 60, "limit")) == expected(groups)
    assert fleet.restarts == 1
    (file,) = tmp_path.glob("*_rollout_worker_0.txt")
    text = file.read_text()
    assert "hang_for_good" in text or "ermission" in text


async def play_all(policy: FleetPolicy, requests: list[EpisodeRequest]) -> list[list[Trajectory]]:
    """Play episodes of an evaluation, each of which is a group."""
    return [[played.trajectory] for played in await asyncio.gather(*map(policy.play, requests))]


async def test_single_episodes_of_a_lost_engine_are_kept_and_the_one_in_its_place_plays_with_the_others(
    fleet: Fleet,
) -> None:
    policy = FleetPolicy(fleet, 60)
    requests = [*group("wait-0"), *group("b")]
    playing = asyncio.create_task(play_all(policy, requests))
    first = fleet.workers[0]
    await asyncio.to_thread(wait_until_asked, first, "wait-0/2")
    ray.get(first.actor.lose_engine.remote())
    assert names(await playing) == expected([[request] for request in requests])
    assert fleet.restarts == 1
    asked = ray.get(fleet.workers[1].actor.log.remote())
    assert len(asked) == len(set(asked)) == 3  # episodes that the lost engine had finished are not played again
    await asyncio.to_thread(fleet.wait_started, 2)
    later = group("later", 4)
    assert names(await play_all(policy, later)) == expected([[request] for request in later])
    asked = ray.get(fleet.workers[0].actor.log.remote())
    assert [name for name in sorted(asked) if name.startswith("later")] == ["later/0", "later/2"]
    assert all(worker.episodes == 0 for worker in fleet.workers)


async def test_what_a_single_episode_fails_at_is_raised_as_it_is_and_for_that_one_alone(fleet: Fleet) -> None:
    policy, requests = FleetPolicy(fleet, 60), [*group("wrong", 1), *group("a")]
    bad, *good = await asyncio.gather(*map(policy.play, requests), return_exceptions=True)
    assert type(bad) is ValueError
    assert str(bad) == "the prompt is too long"
    assert [played.trajectory.seed for played in good if isinstance(played, PlayedEpisode)] == [0, 1, 2]
    assert fleet.restarts == 0
    assert all(worker.episodes == 0 for worker in fleet.workers)


async def test_where_no_engine_comes_back_in_time_an_evaluation_ends(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_policy, "_LOOK_EVERY_S", 0.1)
    fleet._replacement._hire = lambda index: (
        ray.remote(Worker).options(num_cpus=1000).remote(index)
    )  # there is no room for it
    first, second = fleet.workers
    playing = asyncio.create_task(FleetPolicy(fleet, 1.0).play(group("wait-0", 1)[0]))
    await asyncio.to_thread(wait_until_asked, first, "wait-0/0")
    ray.kill(second.actor)
    with pytest.raises(RayActorError):
        await second.actor.log.remote()
    ray.kill(first.actor)
    with pytest.raises(CrewError, match=r"no engine came back within engine\.start_timeout_s=1 s"):
        await asyncio.wait_for(playing, 60)
