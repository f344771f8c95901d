"""The rollout workers as weight sync sees them: calls to all of them, each wait with a deadline that names the late."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError

_PROGRESS_S = 5.0  # for a worker to say how far it is, once something is late


class RolloutWorkerClient:
    """vLLM's weight-sync control calls, made to the rollout workers' engines."""

    def __init__(self, workers: Sequence[ActorHandle], ranks_per_engine: int, timeout_s: float) -> None:
        self.workers = list(workers)
        self.version = -1  # of the weights under way; set by the sender before each round
        self.stall_s = 0.0  # of the last round, see `SyncReport`
        self.timeout_s = timeout_s
        self._ranks_per_engine = ranks_per_engine
        self._receiving: list[ray.ObjectRef] = []

    @property
    def world_size(self) -> int:
        """Of the group: the learner's sender and all workers of all engines."""
        return 1 + len(self.workers) * self._ranks_per_engine

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Have every engine join the group, its workers' ranks after the learner's and those before it."""
        infos = [{**init_info, "rank_offset": 1 + i * self._ranks_per_engine} for i in range(len(self.workers))]
        calls = [worker.init_weight_transfer.remote(info) for worker, info in zip(self.workers, infos, strict=True)]
        self._wait(calls, "join the weight-sync group")

    def start_weight_update(self) -> None:
        """Have every engine begin to receive, or pause for it."""
        self._wait([worker.start_weight_update.remote() for worker in self.workers], "start a weight update")

    def begin_update(self, update_info: dict[str, Any]) -> None:
        """Have every engine receive; returns at once, for `check` and `end_update` to follow."""
        self._receiving = [worker.update_weights.remote(update_info) for worker in self.workers]

    def check(self) -> None:
        """Raise what an engine has raised since `begin_update`."""
        done, _ = ray.wait(self._receiving, num_returns=len(self._receiving), timeout=0)
        ray.get(done, timeout=self.timeout_s)

    def end_update(self) -> None:
        """Wait for every engine to have received."""
        self._wait(self._receiving, "receive the weights")

    def update_weights(self, update_info: Any) -> None:
        """`begin_update` and `end_update`, in one call as vLLM's own senders make it."""
        self.begin_update(update_info)
        self.end_update()

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Finish with `version`; vLLM's engines do not know ours and pass none."""
        version = self.version if weight_version is None else int(weight_version)
        calls = [worker.finish_weight_update.remote(version) for worker in self.workers]
        self.stall_s = max(self._wait(calls, f"put the weights of version {version} to use"))

    def laggards(self, sent: int) -> str:
        """Which workers are behind the `sent` buckets, in words, for the message that something was late."""
        calls = [worker.reception_progress.remote() for worker in self.workers]
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=_PROGRESS_S)
        behind = []
        for index, call in enumerate(calls):
            if call not in done:
                behind.append(f"rollout worker {index} does not answer")
                continue
            buckets = ray.get(call, timeout=_PROGRESS_S)
            if buckets < sent:
                behind.append(f"rollout worker {index} has received {buckets} of {sent} buckets")
        return "; ".join(behind) or "all rollout workers answer and have received what was sent"

    def _wait(self, calls: list[ray.ObjectRef], what: str) -> list[Any]:
        try:
            return ray.get(calls, timeout=self.timeout_s)
        except GetTimeoutError as error:
            done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
            late = [i for i, call in enumerate(calls) if call not in done]
            raise TimeoutError(
                f"rollout workers {late} of {len(calls)} did not {what} within {self.timeout_s:g} s; "
                "restart them and connect again"
            ) from error


def both(called: Callable[[], None], ours: Callable[[], None], *, what: str, timeout_s: float, grace_s: float) -> None:
    """Do `ours` while the engines do what they were `called` for; the first error of either ends the wait.

    An engine that fails never comes to the meeting, so `ours` is not waited for then; and where `ours` fails first,
    the engines have `grace_s` seconds to say why, which tells more.

    Raises:
        TimeoutError: it took longer than `timeout_s` seconds.
        Exception: what either raised, the engines' first.
    """
    deadline = time.monotonic() + timeout_s
    futures = (_in_thread(called), _in_thread(ours))
    wait(futures, timeout=timeout_s, return_when=FIRST_EXCEPTION)
    wait(futures[:1], timeout=min(grace_s, max(deadline - time.monotonic(), 0)))
    for future in futures:
        if future.done():
            future.result()
    if late := [
        side for side, future in zip(("the engines", "the learner"), futures, strict=True) if not future.done()
    ]:
        raise TimeoutError(f"{' and '.join(late)} did not {what} within {timeout_s:g} s; restart them")


def _in_thread(action: Callable[[], None]) -> Future[None]:
    """Run `action` in a daemon thread: no process stays to see the end of a wait that nobody needs."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            action()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="weight-sync", daemon=True).start()
    return future
