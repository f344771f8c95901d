"""Judging: the rewards of finished episodes, and the caps that ended their calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from actors.episodes.trajectory import Trajectory
from actors.errors import ExplainedError
from rewards.presets import Judge
from rewards.transcript import CallStatus, StopReason

_FINAL_CAPS = ("pool.cap_usd_per_run", "pool.cap_usd_per_day")  # as the refusals of `actors.pool.spend` name them


class BudgetSpent(ExplainedError, RuntimeError):
    """A cap in dollars is used up; the message names it, what was saved, and how to go on."""


def spent_cap(trajectories: Sequence[Trajectory]) -> str | None:
    """The first refusal of a call by a cap of the run or day, which also ends all later steps; None if there is none.

    Caps of a step or a provider only void the episodes that reached them.
    """
    for call in (call for t in trajectories for call in t.transcript.calls):
        if call.status is CallStatus.OVER_BUDGET and any(cap in call.error for cap in _FINAL_CAPS):
            return call.error
    return None


def refused_for_caps(trajectories: Sequence[Trajectory]) -> str | None:
    """The first refusal of a call by any cap; None if there is none."""
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
