"""Presets: how format, outcome and cost compose into one reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewards.budget import budget_share
from rewards.cost import cost_reward, rank_reward
from rewards.form import paper_violations, violations
from rewards.normaliser import SlidingNormaliser
from rewards.outcome import outcomes
from rewards.penalty import calls, switches
from rewards.reference import ReferenceReading
from rewards.settings import RewardSettings
from rewards.text import render_transcript
from rewards.transcript import StopReason, Transcript


@dataclass(slots=True)  # not frozen, for speed, but never changed
class RewardBreakdown:
    """A reward and its named components."""

    format: float  # 0 or −1
    outcome: float  # the metric that the settings name, em or f1, in [0, 1]
    cost: float  # the cost reward, in [0, 1]; 1 is free
    total: float
    em: float
    f1: float
    violations: tuple[str, ...] = ()
    answer: str | None = None  # the text that was compared with the accepted answers
    routes: int = 0  # searches that were well-formed and named a model
    components: Mapping[str, float] = field(default_factory=dict)  # the addends of `total`, by name


class Judge:
    """Rewards episodes by one preset. `reference` and `paper` keep a window of costs over the whole run as state.

    A well-formed episode earns the sum of its components, a malformed one −1:

    `reference`: (1 − α)·outcome, plus α·cost if the outcome is above 0 (Router-R1's code, commit 801a240).
    `paper`:     (1 − α)·outcome + α·cost, whatever the outcome (Router-R1, section 3.2, eq. 5).
    `default`:   (1 − α)·outcome + α·cost·outcome. A wrong answer earns nothing however cheap it was; otherwise the best
                 policy could be to ask no model at all. If the settings say so, spending beyond the budget lowers the
                 outcome, and penalties are subtracted.
    """

    def __init__(self, settings: RewardSettings) -> None:
        self.settings = settings
        self._normaliser = SlidingNormaliser()

    def judge(
        self,
        transcript: Transcript,
        answers: Sequence[str],
        *,
        budget_usd: float | None = None,
        group_usd: Sequence[float] | None = None,
        cost_usd: float | None = None,
        raw_cost: float | None = None,
        question: str = "",
    ) -> RewardBreakdown:
        """Reward an episode.

        Args:
            answers: the accepted answers.
            budget_usd: the spending limit in the prompt; None if the prompt names none.
            group_usd: costs of the episode's whole group, for cost_by=rank; without it the episode is a group of one.
            cost_usd, raw_cost: the episode's cost, by default that of the transcript's calls. The preset `default`
                reads `cost_usd`; `paper` and `reference` read `raw_cost`, in Router-R1's unit: completion tokens times
                USD per million of them.
            question: the question's id, for error messages.

        Raises:
            ValueError: there are no accepted answers, the transcript is void, or a cost is negative or not finite.
        """
        if transcript.stop_reason is StopReason.VOID:
            raise ValueError(
                f"{_of(question)}stop_reason=void: the infrastructure failed in this episode, so the policy can't be "
                "judged by it; leave void transcripts out"
            )
        raw = transcript.raw_cost if raw_cost is None else raw_cost
        if self.settings.preset == "reference":
            return self.judge_text(render_transcript(transcript), answers, raw, question=question)
        if self.settings.preset == "paper":
            return self._paper(transcript, _checked(answers, question), raw)
        usd = transcript.cost_usd if cost_usd is None else cost_usd
        return self._default(transcript, _checked(answers, question), usd, budget_usd, group_usd)

    def judge_text(self, text: str, answers: Sequence[str], raw_cost: float, *, question: str = "") -> RewardBreakdown:
        """Reward a whole text, replies included, by the rules of `reference`.

        Raises:
            ValueError: there are no accepted answers, or the cost is negative or not finite.
        """
        _checked(answers, question)
        cost = self._normaliser(raw_cost)
        reading = ReferenceReading(text)
        em, f1, outcome = self._outcome(reading.answer, answers)
        alpha = self.settings.alpha
        paid = {"outcome": (1 - alpha) * outcome, "cost": alpha * cost if outcome > 0 else 0.0}
        return _breakdown(reading.violations(), paid, outcome, cost, em, f1, reading.answer, reading.routes)

    def state(self) -> dict[str, Any]:
        """The state to resume from, in types that JSON can hold."""
        return {"normaliser": self._normaliser.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state()` returned.

        Raises:
            ValueError: `state` does not have the form that `state()` gives.
        """
        self._normaliser.restore(state.get("normaliser", {}))

    def _paper(self, transcript: Transcript, answers: Sequence[str], raw_cost: float) -> RewardBreakdown:
        cost = self._normaliser(raw_cost)
        answer = transcript.answer
        em, f1, outcome = self._outcome(answer, answers)
        alpha = self.settings.alpha
        paid = {"outcome": (1 - alpha) * outcome, "cost": alpha * cost}
        return _breakdown(paper_violations(transcript), paid, outcome, cost, em, f1, answer, transcript.routes)

    def _default(
        self,
        transcript: Transcript,
        answers: Sequence[str],
        usd: float,
        budget_usd: float | None,
        group_usd: Sequence[float] | None,
    ) -> RewardBreakdown:
        settings = self.settings
        cost = self._cost(usd, group_usd)
        answer = transcript.answer
        em, f1, outcome = self._outcome(answer, answers)
        beyond = 1 - budget_share(usd, budget_usd, settings.budget)
        worth = outcome * (1 - settings.budget_weight * beyond)
        paid = {"outcome": (1 - settings.alpha) * worth, "cost": settings.alpha * cost * worth}
        if settings.length_coef:
            paid["length"] = -settings.length_coef * calls(transcript)
        if settings.switch_coef:
            paid["switch"] = -settings.switch_coef * switches(transcript)
        return _breakdown(violations(transcript), paid, outcome, cost, em, f1, answer, transcript.routes)

    def _cost(self, usd: float, group_usd: Sequence[float] | None) -> float:
        if self.settings.cost_by == "rank":
            return rank_reward(usd, (usd,) if group_usd is None else group_usd)
        scale = self.settings.cost_scale_usd
        if scale is None:
            raise ValueError(
                "cost_scale_usd=none: the scale must be derived from the cards' prices before a judge uses it "
                "(rewards.cost.derived_cost_scale_usd); give a number of US dollars"
            )
        return cost_reward(usd, scale)

    def _outcome(self, answer: str | None, answers: Sequence[str]) -> tuple[float, float, float]:
        """Exact match, F1, and the one of the two that `settings.metric` names; all 0 without an answer."""
        if answer is None:
            return 0.0, 0.0, 0.0
        em, f1 = outcomes(answer, answers)
        return em, f1, em if self.settings.metric == "em" else f1


def _breakdown(
    broken: tuple[str, ...],
    paid: dict[str, float],
    outcome: float,
    cost: float,
    em: float,
    f1: float,
    answer: str | None,
    routes: int,
) -> RewardBreakdown:
    """Add up the components `paid`; a malformed episode (with rules in `broken`) gets −1 instead."""
    components = {"format": -1.0} | dict.fromkeys(paid, 0.0) if broken else {"format": 0.0} | paid
    total = sum(components.values())
    return RewardBreakdown(components["format"], outcome, cost, total, em, f1, broken, answer, routes, components)


def _checked(answers: Sequence[str], question: str) -> Sequence[str]:
    """The accepted answers; refuses an empty list and anything but a list of texts."""
    if not answers:
        raise ValueError(
            f"{_of(question)}a question needs at least one accepted answer to be rewarded; its 'answers' is empty"
        )
    for answer in answers:
        if isinstance(answers, str) or not isinstance(answer, str):
            raise ValueError(f"{_of(question)}'answers' must be a list of texts, got {answers!r:.200}")
    return answers


def _of(question: str) -> str:
    return f"question {question!r}: " if question else ""
