"""Weight sync's calls to all rollout workers; every wait has a deadline, and its error names the late workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError

_PROGRESS_S = 5.0  # how long a worker may take to report its progress after something was late


class RolloutWorkerClient:
    """vLLM's weight-sync control calls, made to the rollout workers' engines."""

    def __init__(self, workers: Sequence[ActorHandle], ranks_per_engine: int, timeout_s: float) -> None:
        self.workers = list(workers)
        self.version = -1  # of the weights being sent; the sender sets it before each sync
        self.stall_s = 0.0  # of the last sync, see `SyncReport`
        self.timeout_s = timeout_s
        self._ranks_per_engine = ranks_per_engine
        self._receiving: list[ray.ObjectRef] = []

    @property
    def world_size(self) -> int:
        """Size of the group: the learner's sender and all workers of all engines."""
        return 1 + len(self.workers) * self._ranks_per_engine

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Make every engine join the group. Rank 0 is the learner; the workers' ranks follow, engine by engine."""
        infos = [{**init_info, "rank_offset": 1 + i * self._ranks_per_engine} for i in range(len(self.workers))]
        calls = [worker.init_weight_transfer.remote(info) for worker, info in zip(self.workers, infos, strict=True)]
        self._wait(calls, "join the weight-sync group")

    def start_weight_update(self) -> None:
        """Make every engine prepare to receive; over NCCL it pauses for that."""
        self._wait([worker.start_weight_update.remote() for worker in self.workers], "start a weight update")

    def begin_update(self, update_info: dict[str, Any]) -> None:
        """Make every engine receive. Returns at once; then call `check` and `end_update`."""
        self._receiving = [worker.update_weights.remote(update_info) for worker in self.workers]

    def check(self) -> None:
        """Raise the error of an engine that has failed since `begin_update`, if there is one."""
        done, _ = ray.wait(self._receiving, num_returns=len(self._receiving), timeout=0)
        ray.get(done, timeout=self.timeout_s)

    def end_update(self) -> None:
        """Wait until every engine has received the weights."""
        self._wait(self._receiving, "receive the weights")

    def update_weights(self, update_info: Any) -> None:
        """`begin_update` and `end_update` in one call, as vLLM's own senders use it."""
        self.begin_update(update_info)
        self.end_update()

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Make every engine use the weights as `self.version`; vLLM's own senders pass no version."""
        version = self.version if weight_version is None else int(weight_version)
        calls = [worker.finish_weight_update.remote(version) for worker in self.workers]
        self.stall_s = max(self._wait(calls, f"put the weights of version {version} to use"))

    def laggards(self, sent: int) -> str:
        """Which workers have not received all `sent` buckets, in words, for the message of a timeout."""
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
    """Run `called`, the call to the engines, and `ours`, the learner's side, at once; the first error ends the wait.

    If an engine fails, `ours` would wait for it forever, so `both` does not wait for `ours`. If `ours` fails first, the
    engines get `grace_s` seconds to raise their own error, which is more precise.

    Raises:
        TimeoutError: a side took longer than `timeout_s` seconds.
        Exception: an error of either side; the engines' error comes first.
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
    """Run `action` in a daemon thread, so that an abandoned wait does not keep the process alive."""
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
