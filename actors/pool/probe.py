"""The probe: one cheap call to each candidate, to see whether it answers, bills sensibly, and how fast."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from actors.pool.caller import CandidateCaller
from actors.pool.calls import CANDIDATE_PROMPT, CallRequest
from actors.pool.cards import ModelCard
from actors.pool.settings import PoolSettings
from actors.pool.transport import PoolError
from rewards.transcript import CallStatus, RouteCall

QUESTION = "What is the capital of France?"
MAX_TOKENS = 16
# A tokenizer makes no more tokens of a text than it has bytes; a chat template adds some tens.
_MOST_PROMPT_TOKENS = len(CANDIDATE_PROMPT) + len(QUESTION) + 256


@dataclass(frozen=True, slots=True)
class Probe:
    """What one call to a candidate came to."""

    model: str  # the card's name
    reachable: bool  # it answered the question, whatever it said
    usage_reported: bool
    price_plausible: bool  # the tokens billed are such as this question can take
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    latency_s: float
    error: str  # for people; empty where all is well

    @property
    def good(self) -> bool:
        return self.reachable and self.usage_reported and self.price_plausible


async def probe(cards: Sequence[ModelCard], settings: PoolSettings) -> list[Probe]:
    """Ask every candidate at once, in the order of the cards.

    A missing key is a failed probe, too: nothing is raised for what is wrong with a card or its provider.
    """
    caller = CandidateCaller(cards, settings)
    try:
        return list(await asyncio.gather(*(_probe(caller, card) for card in cards)))
    finally:
        await caller.close()


async def _probe(caller: CandidateCaller, card: ModelCard) -> Probe:
    try:
        call = await caller.ask(CallRequest(card.name, card.name, QUESTION, max_tokens=MAX_TOKENS))
    except PoolError as error:
        return Probe(card.name, False, False, False, 0, 0, 0.0, 0.0, str(error))
    return _judge(card, call)


def _judge(card: ModelCard, call: RouteCall) -> Probe:
    reachable = call.status in (CallStatus.OK, CallStatus.REFUSED)
    reported = reachable and not call.cost_estimated
    plausible = reported and call.prompt_tokens <= _MOST_PROMPT_TOKENS and call.completion_tokens <= MAX_TOKENS
    error = call.error
    if reported and not plausible:
        error = (
            f"{call.prompt_tokens} prompt tokens (at most {_MOST_PROMPT_TOKENS} are in the question) and "
            f"{call.completion_tokens} completion tokens ({MAX_TOKENS} were allowed) are billed"
        )
    return Probe(
        model=card.name,
        reachable=reachable,
        usage_reported=reported,
        price_plausible=plausible,
        prompt_tokens=call.prompt_tokens,
        completion_tokens=call.completion_tokens,
        cost_usd=call.cost_usd,
        latency_s=call.latency_s,
        error=error,
    )
