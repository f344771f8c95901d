"""The fleet policy: a checkpoint under evaluation that plays on several engines, each in a rollout worker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.util import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.episodes.episode import EpisodeRequest
from actors.pool.pool import CandidatePool
from cluster.players.players import PlayedEpisode
from cluster.players.responder import PolicySource
from cluster.session.errors import CrewError
from cluster.session.ray_session import ray_session
from cluster.workers.fleet import EpisodeFailed, Fleet
from cluster.workers.placement import hire_worker, reserve, worker_bundle
from cluster.workers.play import Play

_LOOK_EVERY_S = 5.0  # for engines that hang or come back; the end of an episode is noticed at once


@contextlib.contextmanager
def engine_fleet(
    source: PolicySource, engines: int, start_pool: Callable[[], CandidatePool], stalls: Path
) -> Iterator[FleetPolicy]:
    """Start engines on the configured Ray cluster or on this machine; at the end, end them and all else it started.

    Enter it outside any event loop: the start may take minutes, in which Ctrl-C must work.

    Args:
        engines: how many engines to start.
        start_pool: starts the callers that all engines share; called once Ray runs.
        stalls: folder for the stacks of workers that hang.

    Raises:
        CrewError, PlacementError: Ray, or one of the engines, can't be started.
        PoolError, LedgerError: the candidates can't be asked.
    """
    config = source.config
    with contextlib.ExitStack() as stack:
        stack.enter_context(ray_session(config.placement.address))
        pool = start_pool()
        stack.callback(pool.close)
        placement = reserve(config, [worker_bundle(config, index) for index in range(engines)])
        stack.callback(remove_placement_group, placement)

        def hire(index: int) -> Any:
            place = PlacementGroupSchedulingStrategy(placement, index)
            return hire_worker(config, index, source.checkpoint, pool, place)

        fleet = Fleet(
            hire,
            workers=engines,
            max_restarts=config.placement.max_worker_restarts,
            start_timeout_s=config.engine.start_timeout_s,
            answer_timeout_s=config.engine.control_timeout_s,
            admit=lambda: admit_started(fleet),
            stalls=stalls,
        )
        stack.callback(fleet.close)
        fleet.wait_started(engines)
        yield FleetPolicy(fleet, config.engine.start_timeout_s)


def admit_started(fleet: Fleet) -> None:
    """Mark every started worker ready: its engine has loaded the weights, which never change here."""
    for worker in fleet.started():
        worker.ready = True


class FleetPolicy:
    """Plays episodes on the engines of a fleet, from a single event loop.

    The fleet blocks the loop only for moments; engines and callers are other processes and go on meanwhile.
    """

    def __init__(self, fleet: Fleet, start_timeout_s: float) -> None:
        """`start_timeout_s`: seconds for an engine to come back after all were lost."""
        self._fleet = fleet
        self._start_timeout_s = start_timeout_s
        self._manned_at = time.monotonic()  # when an engine was last ready

    async def start(self) -> None:
        """Do nothing: the engines already run."""

    async def play(self, request: EpisodeRequest) -> PlayedEpisode:
        """Play an episode; if its engine is lost, another continues it.

        Raises:
            PromptTooLong, PoolError, LedgerError: as for any episode.
            CrewError: the budget of restarts is spent, or no engine came back in time.
        """
        admit_started(self._fleet)  # engines that have come back meanwhile
        [play] = self._fleet.submit([[request]])
        try:
            while play.trajectories is None:
                await _ended(play)
                self._look_after(play)
        finally:
            self._fleet.forget([play])
        [trajectory] = play.trajectories
        return PlayedEpisode(trajectory)

    async def close(self) -> None:
        """Do nothing: `engine_fleet` ends the engines."""

    def _look_after(self, play: Play) -> None:
        try:
            self._fleet.tend([play], 0.0)
        except EpisodeFailed as error:
            raise error.reason from error
        now = time.monotonic()
        if any(worker.ready for worker in self._fleet.workers):
            self._manned_at = now
        elif now - self._manned_at > self._start_timeout_s:
            raise CrewError(
                f"no engine came back within engine.start_timeout_s={self._start_timeout_s:g} s after all were lost; "
                "check that Ray has room for one, or raise the timeout"
            )


async def _ended(play: Play) -> None:
    """Wait until the call that plays an episode has ended, or for `_LOOK_EVERY_S` seconds."""
    if play.call is None:
        await asyncio.sleep(_LOOK_EVERY_S)
        return
    with contextlib.suppress(TimeoutError, RayError):  # the fleet reads the call again, and handles errors
        async with asyncio.timeout(_LOOK_EVERY_S):
            await play.call
