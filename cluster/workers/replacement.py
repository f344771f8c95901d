"""Replacement: starts rollout workers and replaces lost ones, within the run's budget of restarts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ray

from actors.engine.policy_engine import EngineDied, EngineLost
from actors.stacks import save_stacks
from cluster.session.errors import CrewError
from cluster.workers.play import Worker

logger = logging.getLogger(__name__)

Fault = Literal["gone", "engine", "hangs"]  # the worker's process is gone, only its engine's is, or it does not answer

_FETCH_S = 30.0
_LONGEST_PAUSE_S = 60.0


class Replacement:
    """Starts workers. If a worker is lost again and again, it is started after a pause that doubles each time."""

    def __init__(self, hire: Callable[[int], Any], *, max_restarts: int, stalls: Path | None = None) -> None:
        """
        Args:
            hire: makes the actor of the worker with this number.
            max_restarts: workers replaced in the whole run, at most.
            stalls: folder for the stacks of workers that hang; without one, no stacks are taken.
        """
        self._hire = hire
        self._max_restarts = max_restarts
        self._stalls = stalls
        self._started_at: dict[int, list[float]] = {}  # recent starts, by worker
        self.restarts = 0

    def start(self, index: int, actor: Any = None) -> Worker:
        """Start a worker, or only a new engine in `actor`, if it is given."""
        now = time.monotonic()
        before = [at for at in self._started_at.get(index, []) if now - at < 10 * _LONGEST_PAUSE_S]
        self._started_at[index] = [*before, now]
        pause_s = min(2.0 ** len(before), _LONGEST_PAUSE_S) if len(before) > 1 else 0.0  # no pause after a single loss
        if actor is not None:
            return Worker(index, actor, actor.restart.remote(pause_s))
        actor = self._hire(index)
        return Worker(index, actor, actor.start.remote(pause_s))

    def end(self, worker: Worker, fault: Fault) -> None:
        """End a lost worker. Save the stacks of a worker that hangs; leave it running if only its engine died."""
        if fault == "hangs":
            self._save_stacks(worker)
        if fault != "engine":
            ray.kill(worker.actor)

    def replace(self, worker: Worker, why: str, fault: Fault) -> Worker:
        """Start another worker, or another engine, in place of a lost one.

        Raises:
            CrewError: the budget of restarts is spent.
        """
        if self.restarts >= self._max_restarts:
            raise CrewError(
                f"rollout worker {worker.index} is lost ({why}), after {self.restarts} restarts "
                f"(placement.max_worker_restarts={self._max_restarts}); look for what ends the workers, such as "
                "a lack of memory, or raise the limit"
            )
        self.restarts += 1
        return self.start(worker.index, worker.actor if fault == "engine" else None)

    def _save_stacks(self, worker: Worker) -> None:
        if self._stalls is not None:
            where = ray.get(worker.starting, timeout=_FETCH_S)  # only a started worker can hang
            file = save_stacks(self._stalls, f"rollout_worker_{worker.index}", [where])
            logger.warning("rollout worker %d hangs; its stacks are in %s", worker.index, file)


def fault_of(error: Exception) -> Fault:
    """The fault of a worker whose call ended with this error."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, EngineDied):
        return "engine"
    return "hangs" if isinstance(cause, EngineLost) else "gone"
