"""The metrics of a step: those of its batch, its staleness and its calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from actors.episodes.trajectory import Trajectory
from actors.pool.stats import CallerStats


def batch_metrics(trajectories: Sequence[Trajectory], rollout_s: float) -> dict[str, float]:
    """The metrics of a batch that took `rollout_s` seconds to play, under the names of `cluster.runs.metrics`."""
    judged = [t for t in trajectories if t.reward is not None]
    rewards = [t.reward for t in judged if t.reward is not None]
    calls = [call for t in trajectories for call in t.transcript.calls]
    sampled = sum(int(t.sampled.sum()) for t in trajectories)
    count = len(trajectories)
    row = {
        "reward/mean": _mean([r.total for r in rewards]),
        "reward/std": float(np.std([r.total for r in rewards])) if rewards else 0.0,
        "reward/format": _mean([r.format for r in rewards]),
        "reward/outcome": _mean([r.outcome for r in rewards]),
        "reward/cost": _mean([r.cost for r in rewards]),
        "train/em": _mean([r.em for r in rewards]),
        "train/f1": _mean([r.f1 for r in rewards]),
        "cost/usd_per_1k_questions": 1000 * sum(call.cost_usd for call in calls) / count,
        "rollout/calls_per_question": len(calls) / count,
        "rollout/call_latency_s": _mean([call.latency_s for call in calls]),
        "rollout/void_share": 1 - len(judged) / count,
        "rollout/response_tokens": sampled / count,
        "rollout/episode_tokens": sum(len(t.token_ids) for t in trajectories) / count,
        "rollout/tokens_per_s": sampled / rollout_s,
        "rollout/episode_s": _mean([t.wall_s for t in trajectories]),
        "time/rollout_s": rollout_s,
    }
    names = dict.fromkeys(name for r in rewards for name in r.components)
    row |= {f"reward/component/{name}": _mean([r.components.get(name, 0.0) for r in rewards]) for name in names}
    row |= _shares("rollout/call_share", Counter(call.model for call in calls if call.model is not None))
    row |= _shares("rollout/call_status", Counter(str(call.status) for call in calls))
    return row | _shares("rollout/stop_reason", Counter(str(t.transcript.stop_reason) for t in trajectories))


def staleness_metrics(
    judged: Sequence[Trajectory], batch: Sequence[Trajectory], *, version: int, max_staleness: int
) -> dict[str, float]:
    """The ages of the tokens in `batch`, and how many groups of `judged` were too old; names as in `runs.metrics`."""
    sampled = [t.versions[t.sampled] for t in batch]
    lags = version - np.concatenate(sampled) if sampled else np.zeros(0)
    old = {t.group for t in judged if t.reward is not None and version - t.oldest_version > max_staleness}
    return {
        "rollout/staleness": float(lags.max(initial=0)),
        "rollout/staleness_mean": float(lags.mean()) if lags.size else 0.0,
        "rollout/stale_groups": len(old),
    }


def pool_metrics(stats: CallerStats) -> dict[str, float]:
    """Counts and costs of the candidates' calls since the run began, under the names of `cluster.runs.metrics`."""
    row = {
        "cost/usd_total": float(sum(stats.usd.values())),
        "pool/requests": stats.attempts,
        "pool/hedges": stats.hedges,
        "pool/ledger_hits": stats.hits,
        "pool/joined": stats.joined,
        "pool/over_budget": stats.over_budget,
        "pool/breakers_open": sum(state != "closed" for state in stats.breakers.values()),
    }
    row |= {f"cost/usd/{name}": float(usd) for name, usd in stats.usd.items()}
    return row | {f"pool/limit/{host}": limit for host, limit in stats.limits.items()}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _shares(family: str, counts: Counter[str]) -> dict[str, float]:
    total = sum(counts.values())
    return {f"{family}/{name}": count / total for name, count in counts.items()}
