"""The fleet: the rollout workers of a run, the groups that each plays, and the replacement of lost workers.

RLlib's `FaultTolerantActorManager` pings actors and gives work to each one that answers. That is not enough here: an
engine must also hold the learner's weights, and the probe must have shown it, or its samples can't be trained on.
RLlib also needs its `apply(function)` on every actor, and the driver would have to import RLlib. So this module
decides which workers get work, and Ray restarts no actor by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError, RayTaskError

from actors.engine.policy_engine import EngineLost
from actors.episodes.episode import EpisodeRequest, Unfinished
from actors.episodes.rollout_worker import WorkerReport
from actors.episodes.trajectory import Trajectory
from cluster.session.errors import CrewError
from cluster.workers.play import Play, Worker
from cluster.workers.replacement import Fault, Replacement, fault_of

logger = logging.getLogger(__name__)

_POLL_S = 1.0
_PING_S = 20.0
_PING_EVERY_S = 10.0
_ANSWER_GRACE_S = 5.0  # beyond the worker's own deadline, whose error says more and so should come first
_SHUTDOWN_S = 30.0
_REPORT_S = 5.0
_SALVAGE_S = 3.0
_FETCH_S = 30.0


class EpisodeFailed(CrewError):
    """An episode failed with the error `reason`; it would fail in the same way on another worker."""

    def __init__(self, message: str, reason: Exception) -> None:
        super().__init__(message)
        self.reason = reason


class Fleet:
    """Gives each group to the worker with the fewest episodes, and replaces lost workers."""

    def __init__(
        self,
        hire: Callable[[int], Any],
        *,
        workers: int,
        max_restarts: int,
        start_timeout_s: float,
        answer_timeout_s: float,
        admit: Callable[[], None],
        stalls: Path | None = None,
    ) -> None:
        """Start all workers.

        Args:
            hire, max_restarts, stalls: as `Replacement` takes them.
            start_timeout_s: seconds for a worker to start its engine.
            answer_timeout_s: seconds for a worker's engine to answer a ping.
            admit: gives started workers the learner's weights and marks them ready; called when groups wait and no
                worker is ready.
        """
        self._replacement = Replacement(hire, max_restarts=max_restarts, stalls=stalls)
        self._start_timeout_s = start_timeout_s
        self._answer_timeout_s = answer_timeout_s + _ANSWER_GRACE_S
        self._admit = admit
        self.workers = [self._replacement.start(index) for index in range(workers)]

    @property
    def restarts(self) -> int:
        """Workers replaced so far."""
        return self._replacement.restarts

    def wait_started(self, count: int) -> None:
        """Wait for the engines of the first `count` workers.

        Raises:
            CrewError: an engine could not start, or not in time.
        """
        self.get([worker.starting for worker in self.workers[:count]], self._start_timeout_s, "start its engine")

    def started(self) -> list[Worker]:
        """The workers whose engine runs. A worker that failed to start is replaced.

        Raises:
            CrewError: the budget of restarts is spent.
        """
        waiting = [worker for worker in self.workers if not worker.ready]
        done, _ = ray.wait([w.starting for w in waiting], num_returns=len(waiting), timeout=0) if waiting else ([], [])
        for worker in waiting:
            if worker.starting in done:
                try:
                    ray.get(worker.starting)
                except RayError as error:
                    done.remove(worker.starting)
                    self.lost(worker, f"could not start its engine: {_first_line(error)}")
        return [worker for worker in self.workers if worker.ready or worker.starting in done]

    def submit(self, groups: Sequence[Sequence[EpisodeRequest]]) -> list[Play]:
        """Have groups played. Each group stays with one worker, so that its engine computes their prompt only once."""
        plays = [Play(requests) for requests in groups]
        for play in plays:
            self._assign(play)
        return plays

    def collect(self, plays: Sequence[Play], timeout_s: float, setting: str) -> list[list[Trajectory]]:
        """Wait until all plays are done; other workers take over the groups of a lost worker.

        Raises:
            CrewError: not done within `timeout_s` seconds, the value of the field `setting`; or as `tend`.
        """
        deadline = time.monotonic() + timeout_s
        while pending := [play for play in plays if play.trajectories is None]:
            if (left_s := deadline - time.monotonic()) <= 0:
                raise CrewError(f"{self._who_is_late(pending)} within {timeout_s:g} s ({setting})")
            self.tend(pending, min(_POLL_S, left_s))
        return [play.trajectories for play in plays if play.trajectories is not None]

    def tend(self, plays: Sequence[Play], wait_s: float) -> None:
        """Wait up to `wait_s` seconds for one of these plays to end, and take its trajectories. Plays without a worker,
        or whose worker is lost, go to other workers.

        Raises:
            EpisodeFailed: an episode failed for a reason of its own.
            CrewError: the budget of restarts is spent.
        """
        for play in plays:
            if play.worker is None:
                self._assign(play)
        self._feel_pulses()
        calls = {play.call: play for play in plays if play.worker is not None}
        if calls:
            done, _ = ray.wait(list(calls), timeout=wait_s)
            for call in done:
                if calls[call].call == call:  # else an earlier turn of this loop found its worker lost
                    self._take(calls[call])
        else:
            self._wait_for_somebody(wait_s)

    def forget(self, plays: Sequence[Play]) -> None:
        """Cancel plays that nobody waits for any more, and the calls that their episodes wait for."""
        for play in plays:
            if play.worker is not None:
                play.worker.drop(play)
                if play.trajectories is None:
                    ray.cancel(play.call)

    def peek(self, play: Play) -> list[Trajectory] | None:
        """The trajectories of a play, None if it is not done. Does not wait, and leaves a failure to `collect` or
        `tend`."""
        if play.trajectories is None and play.call is not None:
            done, _ = ray.wait([play.call], timeout=0, fetch_local=False)  # a result on another node counts, too
            try:
                if done:
                    self._finish(play)
            except RayError as error:
                logger.info("a group is not there yet: %s", _first_line(error))
        return play.trajectories

    def reports(self) -> dict[Worker, WorkerReport]:
        """The reports of the ready workers that answer in time."""
        calls = {worker.actor.report.remote(): worker for worker in self.workers if worker.ready}
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=_REPORT_S) if calls else ([], [])
        found = {}
        for call in done:
            try:
                found[calls[call]] = ray.get(call)
            except RayError as error:
                logger.info("rollout worker %d gave no report: %s", calls[call].index, _first_line(error))
        return found

    def drop_dead(self) -> list[int]:
        """Replace started workers that do not answer a ping; return their numbers.

        Raises:
            CrewError: the budget of restarts is spent.
        """
        calls = {worker.actor.ping.remote(): worker for worker in self.started()}
        done, late = ray.wait(list(calls), num_returns=len(calls), timeout=_PING_S) if calls else ([], [])
        dead: dict[Worker, tuple[str, Fault]] = {
            calls[call]: (f"did not answer within {_PING_S:g} s", "hangs") for call in late
        }
        for call in done:
            try:
                ray.get(call)
            except RayError as error:
                dead[calls[call]] = (_first_line(error), fault_of(error))
        for worker, (why, fault) in dead.items():
            self.lost(worker, why, fault=fault)
        return [worker.index for worker in dead]

    def lost(self, worker: Worker, why: str, *, fault: Fault = "gone") -> None:
        """End a worker and start another in its place, or only a new engine if only the engine died. Other workers
        continue its groups.

        Raises:
            CrewError: the budget of restarts is spent.
        """
        for play in [*worker.plays]:
            self.peek(play)  # a group that is done needs no other worker
        salvaged = self._salvage(worker)
        self._replacement.end(worker, fault)
        logger.warning(
            "rollout worker %d is lost (%s); of its %d groups, %d episodes are continued, and the others are played "
            "again",
            worker.index,
            why,
            len(worker.plays),
            len(salvaged),
        )
        orphans = [*worker.plays]
        for play in orphans:
            self._take_away(play)
            play.keep(salvaged)
        self.workers[worker.index] = self._replacement.replace(worker, why, fault)
        for play in orphans:
            self._assign(play)

    def get(self, calls: list[Any], timeout_s: float, what: str) -> list[Any]:
        """Wait up to `timeout_s` seconds for one call to each worker; return the results. Errors say "did not `what`".

        Raises:
            CrewError: a worker failed or was late.
        """
        try:
            return ray.get(calls, timeout=timeout_s)
        except GetTimeoutError as error:
            done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
            late = [index for index, call in enumerate(calls) if call not in done]
            raise CrewError(f"rollout workers {late} did not {what} within {timeout_s:g} s") from error
        except RayError as error:
            raise CrewError(f"a rollout worker could not {what}: {_first_line(error)}") from error

    def close(self) -> None:
        """End every worker, engines first, within a deadline."""
        calls = [worker.starting for worker in self.workers]
        started, _ = ray.wait(calls, num_returns=len(calls), timeout=0) if calls else ([], [])
        # A worker that is still starting has no engine to stop, and may wait for resources for ever.
        stopping = [worker.actor.shutdown.remote() for worker in self.workers if worker.starting in started]
        late = ray.wait(stopping, num_returns=len(stopping), timeout=_SHUTDOWN_S)[1] if stopping else []
        if late:
            count = len(stopping)
            logger.warning("%d of %d engines did not stop in %g s and are killed", len(late), count, _SHUTDOWN_S)
        for worker in self.workers:
            ray.kill(worker.actor)
        self.workers = []

    def _salvage(self, worker: Worker) -> dict[str, Trajectory | Unfinished]:
        """The episodes of a lost worker as far as they were played; none if the worker itself no longer answers."""
        if not worker.plays:
            return {}
        try:
            return ray.get(worker.actor.salvage.remote(), timeout=_SALVAGE_S)
        except RayError as error:
            logger.info("nothing of rollout worker %d's episodes could be kept: %s", worker.index, _first_line(error))
            return {}

    def _assign(self, play: Play) -> None:
        ready = [worker for worker in self.workers if worker.ready]
        if not ready:
            return
        min(ready, key=lambda worker: (worker.episodes, worker.index)).take(play)

    def _take(self, play: Play) -> None:
        """Take the trajectories of a play whose call has ended; its worker or its result may be lost."""
        worker = play.worker
        assert worker is not None, "only a play with a worker has a call that ends"
        try:
            self._finish(play)
        except GetTimeoutError:
            logger.warning("a group of rollout worker %d did not arrive within %g s", worker.index, _FETCH_S)
        except ObjectLostError as error:
            logger.warning("a group is lost with the node that stored it, and is played again: %s", _first_line(error))
            self._take_away(play)
            play.parts = None
        except RayError as error:
            if isinstance(error, RayTaskError) and not isinstance(error.cause, EngineLost):
                why = f"rollout worker {worker.index} could not play an episode: {_first_line(error)}"
                raise EpisodeFailed(why, error.cause) from error
            if self.workers[worker.index] is worker:
                self.lost(worker, _first_line(error), fault=fault_of(error))

    def _finish(self, play: Play) -> None:
        # Copied: fetched arrays stay in Ray's object store, and fill it for as long as anything refers to them.
        play.finish([trajectory.copied() for trajectory in ray.get(play.call, timeout=_FETCH_S)])
        play.call = None
        if play.worker is not None:
            play.worker.drop(play)

    def _take_away(self, play: Play) -> None:
        """Take a play from its worker; it then waits for another."""
        if play.worker is not None:
            play.worker.drop(play)
        play.worker = play.call = None

    def _feel_pulses(self) -> None:
        """Ping the ready workers, and replace those that hang or whose engine hangs: their calls would never end."""
        now = time.monotonic()
        for worker in [worker for worker in self.workers if worker.ready]:
            if worker.ping is None:
                if now - worker.pinged_at > _PING_EVERY_S:
                    worker.ping, worker.pinged_at = worker.actor.ping.remote(), now
            elif ray.wait([worker.ping], timeout=0)[0]:
                ping, worker.ping = worker.ping, None
                try:
                    ray.get(ping)
                except RayError as error:
                    self.lost(worker, _first_line(error), fault=fault_of(error))
            elif now - worker.pinged_at > self._answer_timeout_s:
                self.lost(worker, f"did not answer for {now - worker.pinged_at:.0f} s", fault="hangs")

    def _wait_for_somebody(self, timeout_s: float) -> None:
        """No worker is ready: wait until one has started, and admit those that have."""
        if self.started():
            self._admit()
        else:
            ray.wait([worker.starting for worker in self.workers], timeout=timeout_s)

    def _who_is_late(self, plays: Sequence[Play]) -> str:
        late = sorted({play.worker.index for play in plays if play.worker is not None})
        if late:
            return f"rollout workers {late} did not finish {len(plays)} groups of episodes"
        return f"no rollout worker was there to play {len(plays)} groups of episodes"


def _first_line(error: Exception) -> str:
    cause = getattr(error, "cause", None)
    return f"{type(cause).__name__}: {cause}" if cause is not None else str(error).strip().splitlines()[0]
