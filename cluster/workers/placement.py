"""The placement: which resources a run asks of Ray, bundle by bundle, and the actors that take them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import ExplainedError
from cluster.config.settings import Config
from cluster.session.address import cluster_address

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from actors.pool.pool import CandidatePool

_CPUS_PER_GPU_ACTOR = 4.0
# On two cores the learner and the engines take turns, so each asks for half a core.
_CPUS_PER_CPU_ACTOR = 0.5
# No node joins the Ray of this machine, and no other run uses it: resources not granted by then are never granted.
_ALONE_S = 60.0
_CONCURRENT_EPISODES = 4096  # Ray's limit for a rollout worker, all calls included; it limits its episodes itself


class PlacementError(ExplainedError, RuntimeError):
    """The cluster can't give the resources that the run needs; the message lists them."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """The resources of one actor."""

    role: str
    resources: dict[str, float]


def bundles(config: Config) -> list[Bundle]:
    """The learner ranks, then the reserved rollout workers, in the order of the placement group."""
    return rank_bundles(config) + [worker_bundle(config, i) for i in range(config.placement.reserved_workers)]


def worker_bundle(config: Config, index: int) -> Bundle:
    """The resources of a rollout worker. Workers that are not reserved take them on any node that has room."""
    gpu = {"GPU": float(config.engine.tensor_parallel_size)} if config.learner.device == "cuda" else {}
    return Bundle(f"rollout worker {index}", {"CPU": _cpus_per_actor(config), **gpu})


def rank_bundles(config: Config) -> list[Bundle]:
    """The learner ranks alone, for a run that rolls out nothing."""
    gpus = {"GPU": 1.0} if config.learner.device == "cuda" else {}
    return [Bundle(f"learner rank {i}", {"CPU": _cpus_per_actor(config), **gpus}) for i in range(config.learner.ranks)]


def _cpus_per_actor(config: Config) -> float:
    return _CPUS_PER_GPU_ACTOR if config.learner.device == "cuda" else _CPUS_PER_CPU_ACTOR


def describe(config: Config) -> str:
    """The resources that a run would ask for, as text for people."""
    placement, lines = config.placement, _describe_group(config, bundles(config))
    for index in range(placement.reserved_workers, placement.rollout_workers):
        lines.append(f"outside it, once there is room: {worker_bundle(config, index).role}")
    lines.append(f"outside it: {config.candidates.pool.callers} candidate caller(s), 0.1 CPU each")
    gpus = sum(bundle.resources.get("GPU", 0) for bundle in bundles(config))
    lines.append(f"in all: {gpus:g} GPUs; weights are synced by {config.weight_backend}")
    requests, calls, groups = config.requests_per_route
    lines.append(
        f"retries: a route that fails causes {requests * calls * groups} requests at most: {requests} in a call "
        f"(candidates.pool.max_attempts), {calls} calls in an episode (episode.on_failed_call and *_retries), "
        f"{groups} plays of its group (run.group_retries)"
    )
    return "\n".join(lines)


def _describe_group(config: Config, wanted: list[Bundle]) -> list[str]:
    lines = [f"placement group, {config.placement.strategy}:"]
    for bundle in wanted:
        lines.append(f"  {bundle.role}: {', '.join(f'{amount:g} {name}' for name, amount in bundle.resources.items())}")
    return lines


def reserve(config: Config, wanted: list[Bundle] | None = None) -> PlacementGroup:
    """Reserve the bundles `wanted`, by default all of the run's, and wait for them.

    Raises:
        PlacementError: the cluster did not grant them within `placement.timeout_s`, or this machine's own Ray within a
            minute.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    wanted = wanted or bundles(config)
    group = placement_group([bundle.resources for bundle in wanted], strategy=config.placement.strategy)
    alone, timeout_s = cluster_address(config.placement.address) is None, config.placement.timeout_s
    if not group.wait(min(timeout_s, _ALONE_S) if alone else timeout_s):
        has = {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
        remove_placement_group(group)
        asked = "\n".join(_describe_group(config, wanted))
        who = "Ray on this machine" if alone else f"the cluster (within placement.timeout_s={timeout_s:g} s)"
        raise PlacementError(
            f"{who} did not grant what was asked for; it has {has} in all. Ask for fewer engines or ranks, or "
            f"{'join a cluster (placement.address)' if alone else 'add nodes'}.\n{asked}"
        )
    return group


def hire_worker(config: Config, index: int, checkpoint: Path, pool: CandidatePool, strategy: Any) -> Any:
    """Make the actor of rollout worker number `index`; its caller must start it. Ray schedules it by `strategy`."""
    import ray

    from actors.episodes.rollout_worker import RolloutWorker

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
