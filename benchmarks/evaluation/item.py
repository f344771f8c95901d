"""The item: one question answered once by one row of an evaluation, as a line of its file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from actors.episodes.trajectory import Trajectory
from actors.pool.measure import holds_answer
from actors.questions import Question
from benchmarks.evaluation.means import Outcome
from benchmarks.evaluation.measure import EXACT, Measure
from benchmarks.evaluation.old_names import row_of_today
from benchmarks.questions.sources import hop_count
from rewards.outcome import outcomes
from rewards.transcript import CallStatus, StopReason, Transcript, Turn

NOT_TAKEN = "not_taken"  # in place of an episode's stop reason
Key = tuple[str, str, str, int]  # row, data set, question, sample


class ItemError(ValueError):
    """A line that is no item; the message names the fault."""


@dataclass(frozen=True, slots=True)
class Item:
    """One answer, what it was worth and what it took."""

    row: str
    dataset: str
    question: str  # its id
    sample: int  # from 0
    em: float  # in [0, 1]; exact match, or what `measure` says in its place
    f1: float | None  # None where no accepted answers are known
    cost_usd: float  # of the candidates' calls, tokens in and out
    calls: tuple[tuple[str, str], ...]  # model and how the call ended, in order; an invalid route names no model
    prompt_tokens: int  # that candidates read
    completion_tokens: int  # that candidates wrote
    latency_s: float  # of the calls, one after the other
    hops: int | None = None
    policy_tokens: int = 0  # sampled by the policy
    policy_usd: float = 0.0  # what the policy's own tokens cost, where it is paid for
    answer: str | None = None  # None where there was none, or it was not kept
    stop: str = ""  # why the policy's episode ended
    measure: Measure = EXACT  # that `em` is by
    held: float | None = None  # 1 where an accepted answer stands in the answer as whole words; None where not known

    @property
    def key(self) -> Key:
        return self.row, self.dataset, self.question, self.sample

    def to_line(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @staticmethod
    def from_line(line: str | bytes) -> Item:
        """Read `to_line`'s line, its row by the name of today.

        Raises:
            ItemError: it is something else.
        """
        try:
            row: dict[str, Any] = json.loads(line)
            row["row"] = row_of_today(row["row"])
            row["calls"] = tuple((str(model), str(status)) for model, status in row["calls"])
            item = Item(**row)
            finite = all(math.isfinite(getattr(item, name)) for name in _NUMBERS)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ItemError(f"no item of an evaluation ({error})") from error
        if not finite or not 0 <= item.em <= 1 or not all(isinstance(part, str) for part in item.key[:3]):
            raise ItemError(f"no item of an evaluation: em={item.em!r} must lie in [0, 1], the others be finite")
        return item


_NUMBERS = tuple(f.name for f in fields(Item) if f.type in ("int", "float"))


def played_item(row: str, sample: int, trajectory: Trajectory, policy_usd: float = 0.0) -> Item:
    """The item of a policy's episode."""
    return _item(row, sample, trajectory.question, trajectory.transcript, int(trajectory.sampled.sum()), policy_usd)


def refused_item(
    row: str,
    sample: int,
    question: Question,
    *,
    turns: Sequence[Turn] = (),
    policy_tokens: int = 0,
    policy_usd: float = 0.0,
) -> Item:
    """The item of an episode whose next prompt, after these turns, the policy's model did not take: the policy has no
    answer, and what was asked till then is paid for."""
    transcript = Transcript(tuple(turns), StopReason.NO_ACTION)
    return replace(_item(row, sample, question, transcript, policy_tokens, policy_usd), stop=NOT_TAKEN)


def _item(
    row: str, sample: int, question: Question, transcript: Transcript, policy_tokens: int, policy_usd: float
) -> Item:
    em, f1 = outcomes(transcript.answer, question.answers) if transcript.answer is not None else (0.0, 0.0)
    return Item(
        row=row,
        dataset=question.dataset,
        question=question.id,
        sample=sample,
        em=em,
        f1=f1,
        cost_usd=transcript.cost_usd,
        calls=tuple((call.model or "", str(call.status)) for call in transcript.calls),
        prompt_tokens=sum(call.prompt_tokens for call in transcript.calls),
        completion_tokens=sum(call.completion_tokens for call in transcript.calls),
        latency_s=sum(call.latency_s for call in transcript.calls),
        hops=hop_count(question),
        policy_tokens=policy_tokens,
        policy_usd=policy_usd,
        answer=transcript.answer,
        stop=str(transcript.stop_reason),
        held=float(holds_answer(transcript.answer or "", question.answers)),
    )


def routed_items(
    row: str, questions: Sequence[Question], outcomes_: Sequence[Outcome], measure: Measure = EXACT
) -> list[Item]:
    """The items of a baseline, which asks the candidates and writes nothing itself; its outcomes are by `measure`."""
    return [
        Item(
            row=row,
            dataset=question.dataset,
            question=question.id,
            sample=0,
            em=outcome.em,
            f1=None if math.isnan(outcome.f1) else outcome.f1,
            cost_usd=outcome.cost_usd,
            calls=_calls(outcome),
            prompt_tokens=outcome.prompt_tokens,
            completion_tokens=outcome.completion_tokens,
            latency_s=outcome.latency_s,
            hops=hop_count(question),
            measure=measure,
            held=None if math.isnan(outcome.held) else outcome.held,
        )
        for question, outcome in zip(questions, outcomes_, strict=True)
    ]


def _calls(outcome: Outcome) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, str(CallStatus.REFUSED if name in outcome.refused else CallStatus.OK)) for name in outcome.asked
    )
