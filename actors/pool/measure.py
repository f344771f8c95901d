"""The measurement of a pool: asks every candidate a set of questions, for its accuracy and its latency."""

from __future__ import annotations

import secrets
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from actors.pool.caller import CandidateCaller
from actors.pool.calls import CallRequest
from actors.pool.candidate import Candidate, Endpoint
from actors.pool.cards import ModelCard
from actors.pool.settings import PoolSettings
from actors.questions import Question
from actors.together import run_together
from rewards.outcome import normalise_answer
from rewards.transcript import CallStatus, RouteCall

NO_DATASET = "all"  # the domain of questions that name no dataset


@dataclass(frozen=True, slots=True)
class Measurement:
    """One candidate's accuracy and latency."""

    model: str  # the card's name
    accuracy: dict[str, float]  # by dataset, in [0, 1]; over answered questions
    answered: int
    failed: int  # the provider's failures; they count neither as right nor as wrong
    latency_s: float  # median of the answered calls; 0 if there are none
    cost_usd: float  # everything that was billed, failed attempts included
    errors: tuple[str, ...] = ()  # the distinct errors of failed calls


@dataclass(slots=True)
class _Tally:
    right: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    errors: dict[str, None] = field(default_factory=dict)

    def add(self, question: Question, call: RouteCall) -> None:
        if call.status not in (CallStatus.OK, CallStatus.REFUSED):
            self.failed += 1
            self.errors[call.error] = None
            return
        self.right[question.dataset or NO_DATASET].append(holds_answer(call.reply, question.answers))
        self.latencies.append(call.latency_s)

    def sum_up(self, model: str, cost_usd: float) -> Measurement:
        return Measurement(
            model=model,
            accuracy={dataset: statistics.mean(map(float, right)) for dataset, right in self.right.items()},
            answered=len(self.latencies),
            failed=self.failed,
            latency_s=statistics.median(self.latencies) if self.latencies else 0.0,
            cost_usd=cost_usd,
            errors=tuple(self.errors),
        )


async def measure(
    cards: Sequence[ModelCard],
    questions: Sequence[Question],
    settings: PoolSettings,
    told: Callable[[float], None] = lambda spent_usd: None,
    *,
    ledger_url: str | None = None,
) -> list[Measurement]:
    """Ask every candidate every question, as the policy would; `told` gets the dollars spent so far after each call.

    A refusal counts as a wrong answer; a provider's failure is not counted. Calls are recorded in the ledger, if there
    is one, as a run of their own, so each measurement asks again.

    Raises:
        PoolError: an endpoint can't be reached, or a key is missing; then nothing was asked.
        LedgerError: a call can't be recorded; then the rest is not asked.
    """
    caller = CandidateCaller(cards, settings, ledger_url=ledger_url, run=f"measure-{secrets.token_hex(4)}")
    tallies = {card.name: _Tally() for card in cards}

    async def ask(card: ModelCard, place: int, question: Question) -> None:
        call = await caller.ask(_request(card, place, question))
        tallies[card.name].add(question, call)
        told(sum(caller.stats().usd.values()))

    try:
        await caller.check()
        # Question by question, so that the calls to slow providers are spread over the whole time.
        await run_together(ask(card, place, question) for place, question in enumerate(questions) for card in cards)
    finally:
        await caller.close()
    spent = caller.stats().usd
    return [tally.sum_up(name, spent[name]) for name, tally in tallies.items()]


def holds_answer(reply: str, answers: Sequence[str]) -> bool:
    """True if the reply contains an accepted answer as whole words, both normalised as for exact match.

    Candidates answer in sentences, so exact match would accept almost no answer.
    """
    words = f" {normalise_answer(reply)} "
    golds = (normalise_answer(answer) for answer in answers)
    return any(gold and f" {gold} " in words for gold in golds)


def most_usd(cards: Sequence[ModelCard], questions: Sequence[Question]) -> float:
    """The most that a measurement can cost, in dollars, if no call is retried."""
    settings = PoolSettings()
    candidates = [Candidate(card, Endpoint(card.base_url, settings), settings) for card in cards]
    return sum(c.worst_usd(_request(c.card, 0, question)) for c in candidates for question in questions)


def _request(card: ModelCard, place: int, question: Question) -> CallRequest:
    return CallRequest(card.name, card.name, question.text, question.id, episode=card.name, turn=place)
