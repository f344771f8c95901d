"""The evaluation: what a policy's episodes, or a baseline's, come to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.episodes.trajectory import Trajectory
from actors.errors import ExplainedError
from benchmarks.evaluation.json_numbers import to_json
from rewards.outcome import exact_match, token_f1
from rewards.transcript import StopReason


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question answered: by whom, how well, at what cost."""

    em: float
    f1: float
    cost_usd: float
    asked: tuple[str, ...]  # card names, in order
    prompt_tokens: int = 0  # that the candidates read; 0 where it was not counted
    completion_tokens: int = 0  # and wrote
    latency_s: float = 0.0  # of the calls, one after the other
    refused: tuple[str, ...] = ()  # those of `asked` who refused
    held: float = math.nan  # 1 where an accepted answer stands in the answer as whole words; nan where not known


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Means over questions. `call_share` is each expert's share of all calls; `void` counts episodes that
    infrastructure spoilt, which no other number includes. `f1` is nan where a question's answers are not known."""

    questions: int
    em: float
    f1: float
    cost_usd_per_1k_questions: float
    calls_per_question: float
    call_share: dict[str, float]
    void: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it: a number that is not known is None."""
        found: dict[str, Any] = to_json(self)
        return found


class EvaluationError(ExplainedError, ValueError):
    """There is nothing to average; the message tells why."""


def summarise(outcomes: Sequence[Outcome], void: int = 0) -> Evaluation:
    """Average outcomes.

    Raises:
        EvaluationError: there are none.
    """
    if not outcomes:
        raise EvaluationError(
            f"nothing to evaluate: {void} episodes, all void; the candidates fail or can't be reached (candidates.*)"
        )
    count = len(outcomes)
    calls = Counter(name for outcome in outcomes for name in outcome.asked)
    total = sum(calls.values())
    return Evaluation(
        questions=count,
        em=sum(o.em for o in outcomes) / count,
        f1=sum(o.f1 for o in outcomes) / count,
        cost_usd_per_1k_questions=1000 * sum(o.cost_usd for o in outcomes) / count,
        calls_per_question=total / count,
        call_share={name: number / total for name, number in calls.most_common()},
        void=void,
    )


def evaluate(trajectories: Sequence[Trajectory]) -> Evaluation:
    """Evaluate a policy's episodes."""
    whole = [t for t in trajectories if t.transcript.stop_reason is not StopReason.VOID]
    return summarise([_outcome(t) for t in whole], void=len(trajectories) - len(whole))


def _outcome(trajectory: Trajectory) -> Outcome:
    answer = trajectory.transcript.answer
    golds = trajectory.question.answers
    return Outcome(
        em=exact_match(answer, golds) if answer is not None else 0.0,
        f1=token_f1(answer, golds) if answer is not None else 0.0,
        cost_usd=trajectory.transcript.cost_usd,
        asked=tuple(call.model for call in trajectory.transcript.calls if call.model is not None),
    )
