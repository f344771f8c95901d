"""The crew: every actor of a run, started together, kept in step by versions, and gone at the end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.episode import EpisodeRequest
from actors.pool.pool import CandidatePool
from actors.rollout_worker import RolloutWorker
from actors.trajectory import Trajectory
from cluster.config import Config
from cluster.placement import bundles, reserve
from cluster.run_folder import RunFolder
from cluster.stopping import stop_on_sigterm
from learner.gang import LearnerGang

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from actors.pool.cards import ModelCard

logger = logging.getLogger(__name__)

_PROBE_TOKENS = 64
_OBJECT_STORE_BYTES = 256 * 2**20  # a single machine's; trajectories are small and weights don't pass through
_SHUTDOWN_S = 30.0


class SyncError(RuntimeError):
    """After a weight sync an engine computes something else than the learner."""


class CrewError(RuntimeError):
    """An actor failed or was late; the message names it and what it was to do."""


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Join the cluster at `address`, or start Ray on this machine for the time of the run."""
    local = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES, "num_cpus": os.cpu_count()}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    joined = address or os.environ.get("RAY_ADDRESS")
    try:
        try:
            ray.init(
                address=joined or "local",  # never a cluster that happens to run here
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if joined else local),
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"join the Ray cluster at {joined} (placement.address)" if joined else "start Ray on this machine"
            raise CrewError(f"can't {where}: {error}") from error
        stop_on_sigterm()  # Ray installs a handler of its own
        yield
    finally:
        ray.shutdown()


class Crew:
    """Rollout workers, learner gang and candidate callers. `version` is the policy that all of them hold."""

    def __init__(self, config: Config, checkpoint: Path, cards: Sequence[ModelCard], run: RunFolder) -> None:
        """Start everybody; engines and learner load side by side. Calls are recorded in `run`'s ledger.

        Raises:
            PlacementError, PoolError, LedgerError, LearnerError, CrewError: somebody could not be started.
        """
        self.config = config
        self.version = 0
        self._placement: PlacementGroup | None = None
        self._workers: list[Any] = []
        self._gang: LearnerGang | None = None
        self._pool: CandidatePool | None = None
        try:
            self._pool = CandidatePool.start(
                cards, config.candidates.pool, ledger_url=str(run.ledger_file.absolute()), run=run.path.name
            )
            self._placement = reserve(config)
            self._workers = [self._hire_worker(index, checkpoint) for index in range(config.placement.rollout_workers)]
            starting = [worker.start.remote() for worker in self._workers]
            self._gang = self._hire_gang(checkpoint, run.path / "bad_batches")
            self._wait(starting, config.engine.start_timeout_s, "start its engine")
            self._gang.connect_engines(
                self._workers,
                backend=config.weight_backend,
                ranks_per_engine=config.engine.tensor_parallel_size,
                dtype=config.engine.dtype,
            )
            self._probe = self._draw_probe()
        except BaseException:
            self.close()
            raise

    @property
    def gang(self) -> LearnerGang:
        assert self._gang is not None, "the crew was closed"
        return self._gang

    @property
    def pool(self) -> CandidatePool:
        assert self._pool is not None, "the crew was closed"
        return self._pool

    def rollout(self, requests: Sequence[EpisodeRequest]) -> list[Trajectory]:
        """Run episodes on all engines; trajectories come in the order of the requests.

        Raises:
            CrewError: a worker failed, or was not done within `run.rollout_timeout_s`.
        """
        count = len(self._workers)
        shares = [list(requests[index::count]) for index in range(count)]
        calls = [worker.rollout.remote(share) for worker, share in zip(self._workers, shares, strict=True)]
        parts = self._wait(calls, self.config.run.rollout_timeout_s, "finish its episodes")
        return [parts[index % count][index // count] for index in range(len(requests))]

    def sync(self, version: int) -> float:
        """Put the learner's weights into every engine, as `version`; return the probe's largest difference in nats.

        Raises:
            SyncError: an engine's log-probabilities differ from the learner's by more than the tolerance.
        """
        self.gang.send_weights(version)
        self.version = version
        return self.check_probe()

    def check_probe(self) -> float:
        """Compare every engine with the learner on the probe sequence (invariant 4)."""
        expected = self.gang.logprobs(self._probe)
        scores = self._wait(
            [worker.score.remote(self._probe) for worker in self._workers],
            self.config.learner.step_timeout_s,
            "score the probe",
        )
        worst = [max(abs(a - b) for a, b in zip(score, expected, strict=True)) for score in scores]
        tolerance = self.config.run.probe_tolerance
        if not max(worst) <= tolerance:
            index = worst.index(max(worst))
            raise SyncError(
                f"after the sync of version {self.version}, rollout worker {index} differs from the learner by "
                f"{worst[index]:.2e} nats on the probe, more than run.probe_tolerance={tolerance:g}; the engine holds "
                "other weights than the learner, so its samples can't be trained on. Raise the tolerance only for a "
                "low-precision engine.dtype"
            )
        return max(worst)

    def close(self) -> None:
        """End every actor, engines first, within a deadline; nothing stays behind."""
        if self._workers:
            stopping = [worker.shutdown.remote() for worker in self._workers]
            done, late = ray.wait(stopping, num_returns=len(stopping), timeout=_SHUTDOWN_S)
            if late:
                logger.warning(
                    "%d of %d engines did not stop in %g s and are killed", len(late), len(done), _SHUTDOWN_S
                )
            for worker in self._workers:
                ray.kill(worker)
        if self._gang is not None:
            self._gang.shutdown()
        if self._pool is not None:
            self._pool.close()
        if self._placement is not None:
            remove_placement_group(self._placement)
        self._workers, self._gang, self._pool, self._placement = [], None, None, None

    def _hire_worker(self, index: int, checkpoint: Path) -> Any:
        config = self.config
        bundle = config.learner.ranks + index
        wanted = bundles(config)[bundle].resources
        return (
            ray.remote(RolloutWorker)
            .options(
                num_cpus=wanted["CPU"],
                num_gpus=wanted.get("GPU", 0),
                max_concurrency=4096,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._placement, bundle),
            )
            .remote(
                str(checkpoint),
                config.engine,
                config.episode,
                self._pool,
                config.weight_backend,
                config.run.seed * 1000 + index,
            )
        )

    def _hire_gang(self, checkpoint: Path, bad_batches: Path) -> LearnerGang:
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
            bad_batches=bad_batches,
        )

    def _draw_probe(self) -> list[int]:
        """Random tokens: unlike any text, they exercise the whole vocabulary and no prefix cache holds them."""
        import random

        vocabulary = self.gang.vocabulary_size()
        rng = random.Random(f"probe-{self.config.run.seed}")
        length = min(_PROBE_TOKENS, self.config.engine.max_model_len - 1)
        return [rng.randrange(vocabulary) for _ in range(length)]

    def _wait(self, calls: list[Any], timeout_s: float, what: str) -> list[Any]:
        try:
            return ray.get(calls, timeout=timeout_s)
        except GetTimeoutError as error:
            done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
            late = [index for index, call in enumerate(calls) if call not in done]
            raise CrewError(f"rollout workers {late} did not {what} within {timeout_s:g} s") from error
        except (RayTaskError, RayActorError) as error:
            cause = getattr(error, "cause", None) or str(error).strip().splitlines()[0]
            raise CrewError(f"a rollout worker could not {what}: {cause!r}") from error
