"""Hiring: the actor of a rollout worker, with the resources that it asks of Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from actors.episodes.rollout_worker import RolloutWorker
from actors.pool.pool import CandidatePool
from cluster.config.settings import Config
from cluster.workers.placement import worker_bundle

_CONCURRENT_EPISODES = 4096  # and other calls; how many play at a time the worker decides


def hire_worker(config: Config, index: int, checkpoint: Path, pool: CandidatePool, strategy: Any) -> Any:
    """The actor of rollout worker number `index`, which is yet to be told to start; `strategy` is Ray's of scheduling
    it."""
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
