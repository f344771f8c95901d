"""The probe: one cheap call to each candidate, to see whether it answers, bills sensibly, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.pool.caller import CandidateCaller
from actors.pool.calls import CallRequest
from actors.pool.cards import ModelCard
from actors.pool.settings import PoolSettings
from actors.pool.transport import PoolError
from actors.together import run_together
from rewards.transcript import CallStatus, RouteCall

QUESTION = "What is the capital of France?"
MAX_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of one call to a candidate."""

    model: str  # the card's name
    reachable: bool  # it answered the question, whatever it said
    usage_reported: bool
    price_plausible: bool  # the billed tokens are possible for this question
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    latency_s: float
    error: str  # for people; empty if all is well

    @property
    def good(self) -> bool:
        return self.reachable and self.usage_reported and self.price_plausible


async def probe(cards: Sequence[ModelCard], settings: PoolSettings, *, ledger_url: str | None = None) -> list[Probe]:
    """Ask every candidate at once, in the order of the cards; calls are recorded in the ledger, if there is one.

    A missing key is a failed probe, too: faults of a card or its provider are never raised.

    Raises:
        LedgerError: a call can't be recorded.
    """
    caller = CandidateCaller(cards, settings, ledger_url=ledger_url, run="probe")
    try:
        return await run_together(_probe(caller, card) for card in cards)
    finally:
        await caller.close()


async def _probe(caller: CandidateCaller, card: ModelCard) -> Probe:
    try:
        call = await caller.ask(CallRequest(card.name, card.name, QUESTION, max_tokens=MAX_TOKENS))
    except PoolError as error:
        return Probe(card.name, False, False, False, 0, 0, 0.0, 0.0, str(error))
    return _judge(card, call, nonsense=bool(caller.stats().nonsense[card.name]))


def _judge(card: ModelCard, call: RouteCall, nonsense: bool) -> Probe:
    reachable = call.status in (CallStatus.OK, CallStatus.REFUSED)
    plausible = reachable and not call.cost_estimated
    error = call.error
    if nonsense:
        error = f"more tokens are billed than this question and a reply of {MAX_TOKENS} can take: {error}"
    return Probe(
        model=card.name,
        reachable=reachable,
        usage_reported=plausible or nonsense,
        price_plausible=plausible,
        prompt_tokens=call.prompt_tokens,
        completion_tokens=call.completion_tokens,
        cost_usd=call.cost_usd,
        latency_s=call.latency_s,
        error=error,
    )
