"""The idleness: the share of a step in which engines, learner and callers had nothing to do; advice on settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.load import LoadReading
from actors.pool.stats import CallerStats
from cluster.config.settings import Config

_STARVED = 0.4  # share of the step; engines or a learner that are idle for as much or more get advice
_SATED = 0.15  # share of the step; engines or a learner that are idle for as much or less are busy
_CRAMPED = 0.75  # share of engine.max_num_seqs; an engine whose memory holds this many sequences or fewer gets advice


@dataclass(frozen=True, slots=True)
class Readings:
    """The loads of the engines and of all callers together, at one moment."""

    engines: Mapping[object, LoadReading]  # by worker; a worker that replaces another has a key of its own
    callers: CallerStats
    targets: Sequence[int] = ()  # for each engine, the sequences that it may generate at a time, as its memory allows


def idleness(before: Readings, after: Readings, *, learn_s: float, step_s: float, target: int) -> dict[str, float]:
    """The idle shares of a step, under the names of `cluster.runs.metrics`.

    Args:
        learn_s: seconds of the step in which the learner worked.
        step_s: seconds of the step.
        target: sequences that an engine may generate at a time (`engine.max_num_seqs`).
    """
    spans = [reading - before.engines[key] for key, reading in after.engines.items() if key in before.engines]
    row = {"idle/learner": max(0.0, 1 - learn_s / step_s) if step_s > 0 else 0.0}
    if spans:
        row["idle/engines"] = _mean([span.idle for span in spans])
        row["rollout/generating"] = _mean([span.mean for span in spans])
        row["rollout/engine_fill"] = row["rollout/generating"] / target
    if after.targets:
        row["rollout/engine_target"] = float(min(after.targets))
    up_s = after.callers.up_s - before.callers.up_s
    if up_s > 0:  # else a caller was restarted, and its counters began at 0
        busy_s = after.callers.busy_s - before.callers.busy_s
        row["idle/callers"] = min(max(1 - busy_s / up_s, 0.0), 1.0)
    return row


def advice(row: Mapping[str, float], config: Config) -> str | None:
    """A sentence on which setting to change because engines or learner are idle; None if there is no advice."""
    engines, learner = row.get("idle/engines"), row["idle/learner"]
    if engines is None:
        return None
    run = config.run
    holds = row.get("rollout/engine_target", math.inf)
    if holds <= _CRAMPED * config.engine.max_num_seqs:
        memory = "kv_cache_gib" if config.engine.device == "cpu" else "gpu_memory_utilization"
        return (
            f"an engine's cache holds {holds:.0f} sequences, engine.max_num_seqs={config.engine.max_num_seqs}: give it "
            f"memory (engine.{memory}={getattr(config.engine, memory):g}), or add rollout workers"
        )
    if engines >= _STARVED:
        told = f"engines idle {engines:.0%} of the step"
        if run.max_staleness == 0 and 1 - learner >= engines / 2:
            return f"{told}, while the policy learns: raise run.max_staleness (0), so that they play ahead meanwhile"
        if learner <= _SATED:
            return f"{told}, the learner {learner:.0%}: add learner ranks (learner.ranks), or take rollout workers away"
        return (
            f"{told}, waiting for candidates ({row.get('rollout/call_latency_s', 0.0):.1f} s a call): have more "
            f"episodes under way, by run.max_staleness ({run.max_staleness}) or run.groups_per_step "
            f"({run.groups_per_step}), and look whether pool/limit holds calls back"
        )
    if learner >= _STARVED and engines <= _SATED and run.max_staleness > 0:
        return (
            f"learner idle {learner:.0%} of the step, the engines {engines:.0%}: add rollout workers "
            f"(placement.rollout_workers={config.placement.rollout_workers})"
        )
    return None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
