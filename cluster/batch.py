"""The batch: judges trajectories, admits whole groups, and puts numbers on them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from actors.pool.stats import CallerStats
from actors.trajectory import Trajectory
from rewards.presets import Judge
from rewards.transcript import CallStatus, StopReason

_FINAL_CAPS = ("pool.cap_usd_per_run", "pool.cap_usd_per_day")  # as the refusals of `actors.pool.spend` name them


class RolloutError(RuntimeError):
    """No group of a batch can be trained on; the message tells what became of the calls."""


class BudgetSpent(RuntimeError):
    """A cap in dollars is used up; the message names it, what was saved, and how to go on."""


def spent_cap(trajectories: Sequence[Trajectory]) -> str | None:
    """Why a call was refused for a cap of the whole run or day, which no later step can get around; None if none was.

    Caps of a step or a provider only void the episodes that ran into them.
    """
    for call in (call for t in trajectories for call in t.transcript.calls):
        if call.status is CallStatus.OVER_BUDGET and any(cap in call.error for cap in _FINAL_CAPS):
            return call.error
    return None


def refused_for_caps(trajectories: Sequence[Trajectory]) -> str | None:
    """Why the first call was refused for a cap, of whatever; None if none was."""
    calls = (call for t in trajectories for call in t.transcript.calls)
    return next((call.error for call in calls if call.status is CallStatus.OVER_BUDGET), None)


def judge_all(trajectories: Sequence[Trajectory], judge: Judge) -> list[Trajectory]:
    """The trajectories with their rewards, in their order; void ones get none.

    Raises:
        ValueError: a question has no accepted answer, or a cost is negative or not finite.
    """
    group_usd: dict[str, list[float]] = defaultdict(list)
    for t in trajectories:
        if t.transcript.stop_reason is not StopReason.VOID:
            group_usd[t.group].append(t.transcript.cost_usd)
    return [
        t
        if t.transcript.stop_reason is StopReason.VOID
        else replace(
            t,
            reward=judge.judge(
                t.transcript,
                t.question.answers,
                budget_usd=t.budget_usd,
                group_usd=group_usd[t.group],
                question=t.question.id,
            ),
        )
        for t in trajectories
    ]


def whole_groups(
    trajectories: Sequence[Trajectory], *, version: int, max_staleness: int, fewest: int = 2
) -> list[Trajectory]:
    """Groups that still have `fewest` members or more, none of them sampled by too old a policy.

    Void episodes are left out of their group: what the infrastructure did is nobody's reward.
    """
    groups: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        if trajectory.reward is not None:
            groups[trajectory.group].append(trajectory)
    return [
        trajectory
        for members in groups.values()
        if len(members) >= fewest and all(version - t.oldest_version <= max_staleness for t in members)
        for trajectory in members
    ]


def admit(trajectories: Sequence[Trajectory], *, version: int, max_staleness: int, fewest: int = 2) -> list[Trajectory]:
    """The batch's `whole_groups`.

    Raises:
        RolloutError: there is none.
    """
    kept = whole_groups(trajectories, version=version, max_staleness=max_staleness, fewest=fewest)
    if not kept:
        void = [t for t in trajectories if t.reward is None]
        failed = [call for t in void for call in t.transcript.calls if call.status.is_infrastructure]
        last = failed[-1] if failed else None
        why = f"the last call to {last.model} ended {last.status}: {last.error}" if last else "no call was made"
        raise RolloutError(
            f"no group of the batch can be trained on: {len(void)} of {len(trajectories)} episodes are void; {why}. "
            "Check that the candidates are reachable (candidates.*), then go on with `router-r1 train --resume RUN`"
        )
    return kept


def batch_metrics(trajectories: Sequence[Trajectory], rollout_s: float) -> dict[str, float]:
    """The numbers of a batch, under the names of `cluster.metrics`."""
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
    """How old what is learnt from is, under the names of `cluster.metrics`, and what of `judged` was too old for it."""
    sampled = [t.versions[t.sampled] for t in batch]
    lags = version - np.concatenate(sampled) if sampled else np.zeros(0)
    old = {t.group for t in judged if t.reward is not None and version - t.oldest_version > max_staleness}
    return {
        "rollout/staleness": float(lags.max(initial=0)),
        "rollout/staleness_mean": float(lags.mean()) if lags.size else 0.0,
        "rollout/stale_groups": len(old),
    }


def pool_metrics(stats: CallerStats) -> dict[str, float]:
    """What the candidates' calls have come to since the run began, under the names of `cluster.metrics`."""
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
