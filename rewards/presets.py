"""Presets: how format, outcome and cost compose into one reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rewards.cost import cost_reward
from rewards.form import violations
from rewards.outcome import exact_match, token_f1
from rewards.transcript import StopReason, Transcript

Preset = Literal["default", "paper"]
Metric = Literal["em", "f1"]


@dataclass(frozen=True, slots=True)
class RewardBreakdown:
    """A reward and its named components."""

    format: float  # 0 or −1
    outcome: float  # the metric trained on, in [0, 1]
    cost: float  # the cost reward, in [0, 1]; 1 is free
    total: float
    em: float
    f1: float
    violations: tuple[str, ...] = ()


def judge(
    transcript: Transcript,
    answers: Sequence[str],
    *,
    preset: Preset,
    alpha: float,
    metric: Metric,
    cost_scale_usd: float,
) -> RewardBreakdown:
    """Reward a transcript.

    `paper`:   −1 where the format is wrong, else (1 − α)·outcome + α·cost (Router-R1, section 3.2, eq. 5).
    `default`: the same, but the cost term is paid in proportion to the outcome. A wrong answer earns
               nothing however cheap it was, so that not asking at all is never the best policy.

    Raises:
        ValueError: there are no accepted answers, or the transcript is void.
    """
    if transcript.stop_reason is StopReason.VOID:
        raise ValueError(
            "stop_reason=void: the infrastructure failed in this episode, which is no reward of the policy's; "
            "leave void transcripts out"
        )
    if not answers:
        raise ValueError("a question needs at least one accepted answer to be rewarded; its 'answers' is empty")
    broken = violations(transcript)
    answer = transcript.answer
    em = exact_match(answer, answers) if answer is not None else 0.0
    f1 = token_f1(answer, answers) if answer is not None else 0.0
    outcome = em if metric == "em" else f1
    cost = cost_reward(transcript.cost_usd, cost_scale_usd)
    if broken:
        total = -1.0
    elif preset == "paper":
        total = (1 - alpha) * outcome + alpha * cost
    else:
        total = outcome * ((1 - alpha) + alpha * cost)
    return RewardBreakdown(-1.0 if broken else 0.0, outcome, cost, total, em, f1, broken)
