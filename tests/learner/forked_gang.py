"""A learner gang whose ranks are forked from a process with everything imported: it starts in a second or two.

Driver and ranks are the real ones. Only Ray is left out; `test_gang_on_ray.py` tests the gang on Ray.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from torch.distributed import TCPStore

from learner.gang import LearnerError, LearnerGang, RankLost
from learner.settings import LearnerSettings

if TYPE_CHECKING:
    from learner.rank import LearnerRank

HOST = "127.0.0.1"
FORKED_WITH = ["pytest", "ray", "deepspeed", "peft", "transformers.models.llama.modeling_llama", "learner.rank"]
FORKED_WITH += ["learner.networks", "learner.training_state", "deepspeed.runtime.zero.muon.muon_optimizer"]


class ForkedGang(LearnerGang):
    """As `LearnerGang`, without `connect_engines` and `send_weights`, which need Ray."""

    def _start(self) -> None:
        self._processes: list[Any] = []
        self._lines: list[Connection] = []
        self._store = TCPStore(HOST, 0, self.settings.ranks, is_master=True, wait_for_workers=False)
        context = fork_context()
        for rank in range(self.settings.ranks):
            ours, theirs = context.Pipe()
            arguments = (theirs, self.settings, rank, self._store.port, self._arguments)
            process = context.Process(target=serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._lines.append(ours)
        try:
            self._collect("start", self.settings.start_timeout_s)
            self._ready()
        except BaseException:
            self.shutdown()
            raise

    def call_each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return self._ask(call, method, [(method, *given) for given in arguments])

    def on_ranks(self, action: Callable[..., Any]) -> list[Any]:
        """Call a function of a test's module on every `LearnerRank`; results by rank."""
        return self._ask(action, "a test's function", [()] * self.settings.ranks)

    def _ask(self, action: Callable[..., Any], what: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        for line, args in zip(self._lines, arguments, strict=True):
            line.send((action, args))
        return self._collect(what, self.settings.step_timeout_s)

    def _collect(self, what: str, timeout_s: float) -> list[Any]:
        results: dict[int, Any] = {}
        deadline = time.monotonic() + timeout_s
        while len(results) < len(self._lines):
            pending = {line: rank for rank, line in enumerate(self._lines) if rank not in results}
            ready = wait(list(pending), timeout=max(deadline - time.monotonic(), 0))
            if not ready:
                raise RankLost(f"{what}: ranks {sorted(pending.values())} did not finish in time")
            for line in ready:
                try:
                    error, result = line.recv()
                except EOFError as gone:
                    raise RankLost(f"{what}: rank {pending[line]} is gone") from gone
                if error is not None:
                    raise LearnerError(f"{what}: {type(error).__name__}: {error}") from error
                results[pending[line]] = result
        return [results[rank] for rank in range(len(self._lines))]

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def shutdown(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for line in self._lines:
            line.close()
        self._processes, self._lines = [], []


def fork_context() -> Any:
    """A context that forks from a server process, so that the ranks inherit nothing (Ray, threads) from the tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(FORKED_WITH)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DS_ACCELERATOR", "cpu")
        environment.setenv("OMP_NUM_THREADS", "1")
        environment.setenv("TORCHDYNAMO_DISABLE", "1")  # as `import_deepspeed` sets it
        from multiprocessing.forkserver import ensure_running

        ensure_running()
    return context


def serve(line: Connection, settings: LearnerSettings, rank: int, port: int, arguments: dict[str, Any]) -> None:
    """A rank's process: build the rank, then answer calls until the process is killed."""
    from learner.rank import LearnerRank

    built: LearnerRank | None = None

    def build() -> None:
        nonlocal built
        store = TCPStore(HOST, port, settings.ranks, is_master=False)
        built = LearnerRank(settings, rank=rank, store=store, **arguments)

    line.send(_outcome(build))
    while True:
        action, args = line.recv()
        line.send(_outcome(lambda action=action, args=args: action(built, *args)))


def call(rank: LearnerRank, method: str, *arguments: Any) -> Any:
    """Call a method of the rank."""
    return getattr(rank, method)(*arguments)


def _outcome(action: Any) -> tuple[Exception | None, Any]:
    try:
        return None, action()
    except Exception as error:
        return error, None


@contextmanager
def forked_gang(checkpoint: Path, settings: LearnerSettings, **options: Any) -> Iterator[ForkedGang]:
    """A gang, by default at temperature 1, that runs within the context."""
    gang = ForkedGang(settings, checkpoint=checkpoint, **({"temperature": 1.0} | options))
    try:
        yield gang
    finally:
        gang.shutdown()
