"""Hiring: the actor of a rollout worker, with the resources that it asks of Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from actors.episodes.rollout_worker import RolloutWorker
from actors.pool.pool import CandidatePool
from cluster.config.settings import Config
from cluster.workers.placement import worker_bundle

_CONCURRENT_EPISODES = 4096  # Ray's limit, which also counts other calls; the worker limits its episodes itself


def hire_worker(config: Config, index: int, checkpoint: Path, pool: CandidatePool, strategy: Any) -> Any:
    """Make the actor of rollout worker number `index`; its caller must start it. Ray schedules it by `strategy`."""
    wanted = worker_bundle(config, index).resources
    return (
        ray.remote(RolloutWorker)
        .options(
            num_cpus=wanted["CPU"],
            num_gpus=wanted.get("GPU", 0),
            max_concurrency=_CONCURRENT_EPISODES,
            scheduling_strategy=strategy,
        )
        .remote(
            str(checkpoint),
            config.engine,
            config.episode,
            pool,
            config.weight_backend,
            config.run.seed * 1000 + index,
            trace=config.run.trace,
        )
    )
