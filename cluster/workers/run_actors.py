"""The crew: all actors of a run. They start together, hold the same version of the policy, and end together."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.errors import ExplainedError
from actors.pool.pool import CandidatePool
from cluster.config.settings import Config
from cluster.runs.folder import RunFolder
from cluster.session.errors import CrewError
from cluster.workers.fleet import Fleet
from cluster.workers.placement import bundles, hire_worker, reserve
from cluster.workers.play import Worker
from learner.gang import LearnerError, LearnerGang, RankLost

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from actors.pool.cards import ModelCard

logger = logging.getLogger(__name__)

_PROBE_TOKENS = 64
_POLL_S = 1.0


class SyncError(ExplainedError, RuntimeError):
    """After a weight sync, an engine computes other log-probabilities than the learner."""


class Crew:
    """Rollout workers, learner gang and candidate callers. `version` is that of the policy in the engines."""

    def __init__(self, config: Config, checkpoint: Path, cards: Sequence[ModelCard], run: RunFolder) -> None:
        """Start all actors; engines and learner load at the same time. Calls are recorded in `run`'s ledger.

        Raises:
            PlacementError, PoolError, LedgerError, LearnerError, CrewError: an actor could not be started.
            SyncError: an engine computes other log-probabilities than the learner.
        """
        self.config = config
        self.version = 0
        self.probe_max = 0.0  # nats; the largest difference on the probe so far
        self._checkpoint = checkpoint
        self._connected: list[Worker] = []  # the members of the weight-sync group
        self._placement: PlacementGroup | None = None
        self._fleet: Fleet | None = None
        self._gang: LearnerGang | None = None
        self._pool: CandidatePool | None = None
        try:
            self._pool = CandidatePool.start(
                cards, config.candidates.pool, ledger_url=str(run.ledger_file.absolute()), run=run.run_id
            )
            self._placement = reserve(config)
            self._fleet = Fleet(
                self._hire_worker,
                workers=config.placement.rollout_workers,
                max_restarts=config.placement.max_worker_restarts,
                start_timeout_s=config.engine.start_timeout_s,
                answer_timeout_s=config.engine.control_timeout_s,
                admit=self._admit_started,
                stalls=run.stalls_path,
            )
            self._gang = self._hire_gang(checkpoint, run)
            self._fleet.wait_started(config.placement.reserved_workers)
            self._probe = self._draw_probe()
            self._connect()
            for worker in self._connected:
                worker.ready = True
            self.check_probe()
        except BaseException:
            self.close()
            raise

    @property
    def gang(self) -> LearnerGang:
        assert self._gang is not None, "the crew was closed"
        return self._gang

    @property
    def fleet(self) -> Fleet:
        assert self._fleet is not None, "the crew was closed"
        return self._fleet

    @property
    def pool(self) -> CandidatePool:
        assert self._pool is not None, "the crew was closed"
        return self._pool

    def sync(self, version: int) -> float:
        """Put the learner's weights into every engine, as `version`; return the probe's largest difference in nats.

        Workers that have started meanwhile in place of lost ones get the weights, too; workers lost on the way are
        replaced.

        Raises:
            SyncError: an engine's log-probabilities differ from the learner's by more than the tolerance.
            RankLost: a rank of the learner died or was late.
            LearnerError, CrewError: the weights could not be sent, although all workers answer.
        """
        while True:
            self._wait_for_one()
            try:
                if self.fleet.started() != self._connected:
                    self._connect()
                self.gang.send_weights(version)
                break
            except RankLost:
                raise
            except LearnerError:
                self._connected = []  # the group is broken
                if not self.fleet.drop_dead():
                    raise
        self.version = version
        for worker in self._connected:
            if not worker.ready:
                logger.info("rollout worker %d joins with version %d", worker.index, version)
            worker.ready = True
        return self.check_probe()

    def check_probe(self) -> float:
        """Compare every ready engine with the learner on the probe sequence (invariant 4 of ARCHITECTURE.md).

        Returns the largest difference in nats.

        Raises:
            SyncError: a difference is larger than `run.probe_tolerance`.
        """
        expected = self.gang.logprobs(self._probe)
        workers = [worker for worker in self.fleet.workers if worker.ready]
        try:
            scores = self.fleet.get(
                [worker.actor.score.remote(self._probe) for worker in workers],
                self.config.learner.step_timeout_s,
                "score the probe",
            )
        except CrewError:
            if not self.fleet.drop_dead():
                raise
            return self.check_probe()
        worst = [max(abs(a - b) for a, b in zip(score, expected, strict=True)) for score in scores]
        tolerance = self.config.run.probe_tolerance
        for worker, off in zip(workers, worst, strict=True):
            if not off <= tolerance:
                raise SyncError(
                    f"after the sync of version {self.version}, rollout worker {worker.index} differs from the learner "
                    f"by {off:.2e} nats on the probe, more than run.probe_tolerance={tolerance:g}; the engine holds "
                    "other weights than the learner, so its samples can't be trained on. Raise the tolerance only for "
                    "a low-precision engine.dtype"
                )
        self.probe_max = max(self.probe_max, *worst, 0.0)
        return max(worst, default=0.0)

    def restart_gang(self) -> int:
        """Restart the learner from its newest checkpoint after it lost a rank, and put those weights into the engines.

        Returns the number of batches trained up to that checkpoint.

        Raises:
            LearnerError: the budget of `learner.max_restarts` is spent.
        """
        batches = self.gang.restart()
        self._connected = []
        self.sync(batches)
        return batches

    def close(self) -> None:
        """End every actor, engines first, within a deadline."""
        with ExitStack() as stack:  # if one can't be ended, the others still are
            if self._placement is not None:
                stack.callback(remove_placement_group, self._placement)
            if self._pool is not None:
                stack.callback(self._pool.close)
            if self._gang is not None:
                stack.callback(self._gang.shutdown)
            if self._fleet is not None:
                stack.callback(self._fleet.close)
            self._fleet, self._gang, self._pool, self._placement = None, None, None, None

    def _admit_started(self) -> None:
        """Give started workers the current policy, because groups wait for them."""
        logger.info("a rollout worker is back; it gets the weights of version %d", self.version)
        self.sync(self.version)

    def _wait_for_one(self) -> None:
        """Wait until at least one worker runs, which the weights can be sent to."""
        timeout_s = self.config.engine.start_timeout_s
        deadline = time.monotonic() + timeout_s
        while not self.fleet.started():  # `started` also replaces workers that failed to start
            if time.monotonic() > deadline:
                raise CrewError(
                    f"no rollout worker came back within engine.start_timeout_s={timeout_s:g} s after all were lost"
                )
            ray.wait([worker.starting for worker in self.fleet.workers], timeout=_POLL_S)

    def _connect(self) -> None:
        """Form the weight-sync group with all workers that run."""
        config, workers = self.config, self.fleet.started()
        self.gang.connect_engines(
            [worker.actor for worker in workers],
            backend=config.weight_backend,
            ranks_per_engine=config.engine.tensor_parallel_size,
            dtype=config.engine.dtype,
        )
        self._connected = workers

    def _hire_worker(self, index: int) -> Any:
        config = self.config
        strategy: Any = "SPREAD"
        if index < config.placement.reserved_workers:
            strategy = PlacementGroupSchedulingStrategy(self._placement, config.learner.ranks + index)
        return hire_worker(config, index, self._checkpoint, self.pool, strategy)

    def _hire_gang(self, checkpoint: Path, run: RunFolder) -> LearnerGang:
        config = self.config
        return LearnerGang(
            config.learner.for_staleness(config.run.max_staleness).model_copy(
                update={"seed": config.learner.seed + config.run.seed}
            ),
            checkpoint=checkpoint,
            temperature=config.policy.sampling.temperature,
            placement=self._placement,
            bundles=range(config.learner.ranks),
            cpus_per_rank=bundles(config)[0].resources["CPU"],
            bad_batches=run.path / "bad_batches",
            stalls=run.stalls_path,
        )

    def _draw_probe(self) -> list[int]:
        """Random tokens: unlike any text, they exercise the whole vocabulary and no prefix cache holds them."""
        import random

        vocabulary = self.gang.vocabulary_size()
        rng = random.Random(f"probe-{self.config.run.seed}")
        length = min(_PROBE_TOKENS, self.config.engine.max_model_len - 1)
        return [rng.randrange(vocabulary) for _ in range(length)]
