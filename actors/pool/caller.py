"""The candidate caller: asks the LLMs of its cards over HTTP, and owns their limits, retries and counters."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actors.pool.calls import CallRequest
from actors.pool.cards import ModelCard, check_names, resolve
from actors.pool.reply import Reply, Usage
from actors.pool.settings import PoolSettings
from actors.pool.transport import SHORTEST_SECRET, PoolError, Transport
from rewards.transcript import CallStatus, RouteCall

_log = logging.getLogger(__name__)

# The task that Router-R1 gives its candidates, in our words: they see a sub-question and nothing else.
CANDIDATE_PROMPT = (
    "You are asked one part of a larger question. Answer it directly from what you know, in a sentence or two, "
    "with the fact that is asked for. If you are not sure, give your best answer and say that you are not sure."
)
_CHARACTERS_PER_TOKEN = 4  # for estimates where a provider does not report its usage


@dataclass(frozen=True, slots=True)
class CallerStats:
    """Counters since the caller started."""

    calls: int  # asked, whatever became of them
    attempts: int  # HTTP requests for them
    in_flight: int
    cancelled: int
    status: dict[str, int]  # finished calls by CallStatus
    usd: dict[str, float]  # spent, by card name, for attempts that failed too


@dataclass(slots=True)
class _Progress:
    """What one call has come to so far; it outlives a deadline that cuts the call short."""

    started: float = field(default_factory=time.monotonic)
    attempts: int = 0
    billed: list[Usage] = field(default_factory=list)
    last_fault: str = ""

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started


class CandidateCaller:
    """Asks candidates over one pooled HTTP session; a plain asyncio class, to be made an actor by its user."""

    def __init__(self, cards: Sequence[ModelCard], settings: PoolSettings) -> None:
        """Take the cards of the endpoints that this caller owns.

        Raises:
            PoolError: there are no cards.
            CardError: two cards share a name.
        """
        if not cards:
            raise PoolError("the pool has no model cards; give some in pool.cards")
        check_names(cards, "the pool")
        self._cards = tuple(cards)
        self._settings = settings
        self._base_url = settings.base_url
        self._slots = asyncio.Semaphore(settings.max_in_flight)
        self._transport = Transport(settings)
        self._random = random.Random()
        self._calls = self._attempts = self._in_flight = self._cancelled = 0
        self._status: Counter[str] = Counter()
        self._usd: dict[str, float] = {card.name: 0.0 for card in cards}

    async def check(self) -> None:
        """Ask every endpoint for its models once, each within the connect deadline.

        Raises:
            PoolError: a key's variable is not set, an endpoint does not answer in time or refuses.
        """
        endpoints = {(self._endpoint(card), self._api_key(card)) for card in self._cards}
        await asyncio.gather(*(self._transport.probe(url, key) for url, key in endpoints))

    async def ask(self, request: CallRequest) -> RouteCall:
        """Ask one candidate. Whatever the provider does becomes a status, and nothing that it does is raised.

        The clock of the call starts when it gets one of `max_in_flight` slots; one that gets none within
        `queue_timeout_s` is a timeout. The tokens and cost of an `ok` or refused call are those of its last
        attempt: a provider's failures before it are no doing of the policy's. An `ok` reply without usage is
        estimated from its length; a refusal without usage is charged as a reply of full length, so that it is
        never the cheapest call. Calls that failed otherwise carry no cost, and void the episode. `stats` counts
        whatever was billed, failed attempts included.

        Raises:
            PoolError: no card has the name, the key's variable is not set, or the caller is closed.
        """
        card = resolve(request.model, self._cards)
        if card is None:
            names = ", ".join(c.name for c in self._cards)
            raise PoolError(f"no card of this caller is named {request.model!r}; it has {names}")
        key = self._api_key(card)
        self._calls += 1
        self._in_flight += 1
        try:
            call = await self._in_turn(card, key, request)
        except asyncio.CancelledError:
            self._cancelled += 1
            raise
        finally:
            self._in_flight -= 1
        self._status[call.status.value] += 1
        return call

    def stats(self) -> CallerStats:
        return CallerStats(
            calls=self._calls,
            attempts=self._attempts,
            in_flight=self._in_flight,
            cancelled=self._cancelled,
            status=dict(self._status),
            usd=dict(self._usd),
        )

    async def close(self) -> None:
        """Close the connections; calls under way fail."""
        await self._transport.close()

    async def _in_turn(self, card: ModelCard, key: str | None, request: CallRequest) -> RouteCall:
        """Wait for a free slot, then make the call in it."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.queue_timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            return RouteCall(
                requested=request.requested,
                model=card.name,
                query=request.query,
                status=CallStatus.TIMEOUT,
                latency_s=time.monotonic() - started,
                attempts=0,
                error=f"no free slot of pool.max_in_flight={self._settings.max_in_flight} within "
                f"{self._settings.queue_timeout_s:g} s (pool.queue_timeout_s); raise max_in_flight or pool.callers",
            )
        try:
            return await self._finish(card, key, request)
        finally:
            self._slots.release()

    async def _finish(self, card: ModelCard, key: str | None, request: CallRequest) -> RouteCall:
        """Make the attempts under the call's deadline and settle what they came to."""
        progress = _Progress()
        deadline_s = self._settings.total_timeout_s
        payload = self._payload(card, request)
        try:
            async with asyncio.timeout(deadline_s):
                reply = await self._retry(card, key, payload, progress)
        except TimeoutError:
            before = f"; before that: {progress.last_fault}" if progress.last_fault else ""
            fault = f"no reply from {self._endpoint(card)} within {deadline_s:g} s (pool.total_timeout_s){before}"
            reply = Reply(fault=fault, timed_out=True)
        finally:
            for usage in progress.billed:
                self._usd[card.name] += card.cost_usd(usage.prompt_tokens, usage.completion_tokens)
        return self._settle(card, key, request, reply, progress)

    async def _retry(self, card: ModelCard, key: str | None, payload: dict[str, Any], progress: _Progress) -> Reply:
        """Attempt until a reply is final; the pauses double, with jitter, and are no shorter than asked for."""
        while True:
            progress.attempts += 1
            self._attempts += 1
            reply = await self._transport.post(self._endpoint(card), key, payload)
            if reply.usage is not None:
                progress.billed.append(reply.usage)
            if not reply.retriable:
                return reply
            progress.last_fault = reply.fault
            if progress.attempts >= self._settings.max_attempts:
                return replace(reply, fault=f"{reply.fault} (gave up after {progress.attempts} attempts)")
            backoff = self._settings.backoff_s * 2.0 ** (progress.attempts - 1) * self._random.uniform(0.5, 1.5)
            pause, left = max(backoff, reply.retry_after_s), self._settings.total_timeout_s - progress.elapsed_s
            if pause >= left:
                fault = f"{reply.fault} (the next attempt in {pause:.1f} s is past the deadline in {left:.1f} s)"
                return replace(reply, fault=fault)
            _log.debug("%s: %s; again in %.2f s", card.name, _scrub(reply.fault, key, 1), pause)
            await asyncio.sleep(pause)

    def _settle(
        self, card: ModelCard, key: str | None, request: CallRequest, reply: Reply, progress: _Progress
    ) -> RouteCall:
        status, error = _status(reply)
        usage = Usage(0, 0)
        if status in (CallStatus.OK, CallStatus.REFUSED):
            usage = reply.usage or self._estimate(card, request, reply, status)
            if reply.usage is None:
                self._usd[card.name] += card.cost_usd(usage.prompt_tokens, usage.completion_tokens)
                error = "; ".join(filter(None, (error, "usage missing or nonsense: tokens are estimated")))
        return RouteCall(
            requested=request.requested,
            model=card.name,
            query=request.query,
            status=status,
            reply=_scrub(reply.text, key, SHORTEST_SECRET),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cost_usd=card.cost_usd(usage.prompt_tokens, usage.completion_tokens),
            latency_s=progress.elapsed_s,
            attempts=progress.attempts,
            error=_scrub(error, key, 1),
        )

    def _estimate(self, card: ModelCard, request: CallRequest, reply: Reply, status: CallStatus) -> Usage:
        longest = min(request.max_tokens, card.max_output_tokens)
        return Usage(
            prompt_tokens=_tokens_of(CANDIDATE_PROMPT) + _tokens_of(request.query),
            completion_tokens=_tokens_of(reply.text) if status is CallStatus.OK else longest,
        )

    def _payload(self, card: ModelCard, request: CallRequest) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "model": card.model,
            "messages": [
                {"role": "system", "content": CANDIDATE_PROMPT},
                {"role": "user", "content": request.query},
            ],
            "max_tokens": min(request.max_tokens, card.max_output_tokens),
            "temperature": card.temperature,
        }
        if request.seed is not None:
            payload["seed"] = request.seed
        if self._settings.send_question_id:
            payload["metadata"] = {"question_id": request.question_id}
        return payload

    def _endpoint(self, card: ModelCard) -> str:
        return card.base_url if self._base_url is None else self._base_url

    def _api_key(self, card: ModelCard) -> str | None:
        """The card's key, read from the environment now; none goes to an endpoint that overrides the card's."""
        if card.api_key_env is None or self._base_url is not None:
            return None
        key = os.environ.get(card.api_key_env, "").strip()
        if not key:
            raise PoolError(
                f"card {card.name!r}: the environment variable {card.api_key_env} is not set; export the API key in "
                "it, or set pool.base_url to a server that needs none"
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise PoolError(
                f"card {card.name!r}: the environment variable {card.api_key_env} holds characters that no API key "
                "has; export the key alone"
            )
        return key


def _status(reply: Reply) -> tuple[CallStatus, str]:
    if reply.refusal:
        return CallStatus.REFUSED, reply.refusal
    if reply.timed_out:
        return CallStatus.TIMEOUT, reply.fault
    if reply.fault:
        return CallStatus.PROVIDER_ERROR, reply.fault
    return CallStatus.OK, ""


def _tokens_of(text: str) -> int:
    return max(1, math.ceil(len(text) / _CHARACTERS_PER_TOKEN))


def _scrub(text: str, key: str | None, shortest: int) -> str:
    """`text` without the key, which a provider may have repeated in it."""
    return text.replace(key, "***") if key and len(key) >= shortest else text
