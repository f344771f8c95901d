"""Buys one call: its requests, pauses and hedges. Each request is granted before it is sent, and paid afterwards."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from itertools import count
from uuid import uuid4

from actors.ledger.entry import Settled
from actors.pool.breaker import BreakerState
from actors.pool.calls import CallRequest
from actors.pool.candidate import Candidate
from actors.pool.hedging import first_good
from actors.pool.reply import Reply, Usage
from actors.pool.settings import PoolSettings
from actors.pool.spend import Charge, Funds
from actors.pool.stats import CallerStats
from actors.pool.transport import SHORTEST_SECRET, Transport

_log = logging.getLogger(__name__)

_LONGEST_BACKOFF_S = 8.0


class OverBudget(Exception):
    """A request was refused before it was sent; the message names the cap and the remedy."""


class EndpointDown(Exception):
    """The endpoint's breaker is open; the message names the endpoint."""


@dataclass(slots=True)
class Means:
    """The objects that all purchases of a caller share."""

    settings: PoolSettings
    transport: Transport
    funds: Funds | None  # None if there are no caps
    stats: CallerStats
    caller: str
    random: random.Random = field(default_factory=random.Random)
    _life: str = field(default_factory=lambda: uuid4().hex)  # of this process: a restarted caller has another
    _numbers: count[int] = field(default_factory=count)

    def new_id(self) -> str:
        """An id that is unique among all callers and runs."""
        return f"{self._life}-{next(self._numbers)}"


class Purchase:
    """The state of one call so far; it outlives a deadline that cuts the call short."""

    def __init__(self, means: Means, candidate: Candidate, request: CallRequest, key: str | None, body: bytes) -> None:
        self._means = means
        self._candidate = candidate
        self._request = request
        self._key = key
        self._body = body
        self.worst_usd = candidate.worst_usd(request)
        self.started = time.monotonic()
        self.attempts = 0
        self.spent_usd = 0.0
        self.estimated = False
        self.hedged = False
        self.last_fault = ""
        self._waits_for = ""  # for people: what it waits for before it is sent; empty while a request is in progress
        self._probes = False  # the last request was let through an open breaker
        self._may_be_sent = False  # its clock runs
        self._has_turn = False  # it has an unused turn under the limits per minute

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    async def take_turn(self) -> None:
        """Wait for a turn under the limits per minute, then for a slot; the deadline is up to the caller.

        Raises:
            EndpointDown: the endpoint is down, and calls don't wait for it.
        """
        endpoint, means = self._candidate.endpoint, self._means
        if means.settings.when_down == "fail" and endpoint.breaker.state is BreakerState.OPEN:
            raise self._down()
        wait_s = self._take_turn()
        if wait_s > 0:
            self._waits_for = "its turn under the card's requests_per_minute and tokens_per_minute; ask less at once"
            await asyncio.sleep(wait_s)
        if endpoint.gate.try_enter():
            return
        most = means.settings.max_in_flight
        self._waits_for = f"a free slot of pool.max_in_flight={most}; raise max_in_flight or pool.callers"
        if endpoint.gate.limit < most:
            self._waits_for += f" (at {endpoint.gate.limit} now, as the provider turned calls away)"
        await endpoint.gate.enter()

    def give_back_turn(self) -> None:
        """After the call: give back a turn under the limits per minute that was not used."""
        if self._has_turn:
            self._has_turn = False
            self._candidate.give_back_turn(self._request)

    def start(self) -> None:
        """Start the call's clock: the call is about to be sent."""
        self._may_be_sent, self._waits_for = True, ""
        self.started = time.monotonic()

    async def grant(self) -> str:
        """Wait until a request may be sent and paid for; return the id of its charge.

        Raises:
            EndpointDown: the breaker is open, and calls don't wait for it.
            OverBudget: the request would break a cap.
        """
        endpoint = self._candidate.endpoint
        self._probes = endpoint.breaker.state is not BreakerState.CLOSED
        while not endpoint.breaker.admit():
            if self._means.settings.when_down == "fail":
                raise self._down()
            self._waits_for = f"{endpoint.base_url} to be back (pool.when_down=wait)"
            await asyncio.sleep(endpoint.breaker.next_probe_s + self._means.random.uniform(0, 0.1))
        self._waits_for = "calls under way to settle what they reserved under a cap; raise the cap"
        return await self._reserve()

    async def run(self, charge_id: str) -> Reply:
        """Send requests until a reply is final; `charge_id` is the charge of the first. Pauses double, with jitter, and
        are never shorter than the provider asks for.

        Raises:
            EndpointDown, OverBudget: a further request may not be sent.
        """
        settings = self._means.settings
        while True:
            reply = await self._send_hedged(charge_id)
            if not reply.retriable:
                return reply
            self.last_fault = reply.fault
            if self._probes and reply.down and settings.when_down == "fail":
                # A call that went on probing would hold up its episode, and so the step, as long as the outage lasts.
                raise self._down()
            if self.attempts >= settings.max_attempts:
                return replace(reply, fault=f"{reply.fault} (gave up after {self.attempts} attempts)")
            pause_s, left_s = self._pause_s(reply), settings.total_timeout_s - self.elapsed_s
            if pause_s >= left_s:
                fault = f"{reply.fault} (the next attempt in {pause_s:.1f} s is past the deadline in {left_s:.1f} s)"
                return replace(reply, fault=fault)
            _log.debug("%s: attempt %d failed; again in %.2f s", self._candidate.card.name, self.attempts, pause_s)
            await asyncio.sleep(pause_s)
            charge_id = await self.grant()
            self._waits_for = ""

    def pay(self, charge_id: str, reply: Reply | None) -> None:
        """Settle a request's charge; `reply` is None if we hung up."""
        usd, estimated = self._candidate.price(self._request, reply)
        self.spent_usd += usd
        self.estimated |= estimated
        stats = self._means.stats
        stats.usd[self._candidate.card.name] += usd  # type: ignore[assignment]  # typeshed counts in whole numbers
        stats.reserved_usd -= self.worst_usd
        if self._means.funds is not None:
            self._means.funds.settle(charge_id, usd)

    async def record(self, charge_id: str, begin: Awaitable[Settled | None]) -> Settled | None:
        """Record the call before it is sent. If that fails, or the call was answered before, free its reservation.

        Returns the earlier answer, if there is one.
        """
        found = None
        self._waits_for = "the ledger to write it down"
        try:
            found = await begin
            recorded = found is None
            self._waits_for = ""
        except BaseException:
            recorded = False
            raise
        finally:
            if not recorded:
                self._means.stats.reserved_usd -= self.worst_usd
                if self._means.funds is not None:
                    self._means.funds.settle(charge_id, 0.0)
        return found

    def late(self) -> Reply:
        """The reply for a call whose deadline has passed."""
        settings, base_url = self._means.settings, self._candidate.endpoint.base_url
        if not self._may_be_sent:
            fault = f"not sent within {settings.queue_timeout_s:g} s (pool.queue_timeout_s): it waited for "
            return Reply(fault=fault + self._waits_for, timed_out=True)
        before = f"; before that: {self.last_fault}" if self.last_fault else ""
        within = f"within {settings.total_timeout_s:g} s (pool.total_timeout_s)"
        if self._waits_for:
            again = " again" if self.attempts else ""
            return Reply(fault=f"not sent{again} {within}: it waited for {self._waits_for}{before}", timed_out=True)
        self._candidate.endpoint.breaker.failed()
        return Reply(fault=f"no reply from {base_url} {within}{before}", timed_out=True)

    def sum_up(self, reply: Reply, status: str = "") -> Settled:
        """The call's outcome, without the key, which a provider may have repeated."""
        usage, error = Usage(0, 0), reply.refusal or reply.fault
        if reply.good or reply.refusal:
            reported = self._candidate.usage(self._request, reply)
            usage = reported or self._candidate.estimate(self._request, reply.text if reply.good else None)
            if reported is None:
                error = "; ".join(filter(None, (error, "usage missing or nonsense: tokens are estimated")))
                self._means.stats.nonsense[self._candidate.card.name] += reply.usage is not None
        return Settled(
            status=status or reply.status,
            reply=_scrub(reply.text, self._key, SHORTEST_SECRET),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cost_usd=self.spent_usd,
            estimated=self.estimated,
            latency_s=self.elapsed_s,
            attempts=self.attempts,
            error=_scrub(error, self._key, 1),
            hedged=self.hedged,
        )

    def _down(self) -> EndpointDown:
        before = f"; before that: {self.last_fault}" if self.last_fault else ""
        return EndpointDown(
            f"{self._candidate.endpoint.base_url} is down: nothing is sent but a call every second, to see whether it "
            f"is back (pool.when_down=wait waits for it){before}"
        )

    async def _reserve(self) -> str:
        means, candidate = self._means, self._candidate
        charge_id = means.new_id()
        if means.funds is not None:
            charge = Charge(
                charge_id,
                means.caller,
                candidate.card.name,
                candidate.endpoint.host,
                self._request.step,
                self.worst_usd,
            )
            refusal = await means.funds.reserve(charge)
            if refusal:
                raise OverBudget(refusal)
        means.stats.reserved_usd += self.worst_usd
        return charge_id

    async def _send(self, charge_id: str) -> Reply:
        """Send one request, and pay for it however it ends."""
        self._has_turn = False  # used now; a hedge, which comes later, takes a turn of its own
        self.attempts += 1
        self._means.stats.attempts += 1
        started = time.monotonic()
        endpoint = self._candidate.endpoint
        try:
            reply = await self._means.transport.post(endpoint.base_url, self._key, self._body)
        except BaseException:
            self.pay(charge_id, None)
            raise
        if reply.good:
            usage = self._candidate.usage(self._request, reply)
            self._candidate.replied(self._request, reply.text, usage, time.monotonic() - started)
        self.pay(charge_id, reply)
        if reply.down:
            endpoint.breaker.failed()
        else:
            endpoint.breaker.succeeded()
        if reply.rejected:
            endpoint.gate.rejected()
        elif not reply.down:
            endpoint.gate.served()
        return reply

    async def _send_hedged(self, charge_id: str) -> Reply:
        """Send one request, and a second one beside it if the first is slow."""
        slow_s = self._candidate.hedge_after_s()
        if slow_s is None:
            return await self._send(charge_id)
        return await first_good(self._send(charge_id), slow_s, self._send_second)

    async def _send_second(self) -> Reply | None:
        """Send a hedge if the endpoint is up, a slot and a turn are free and no cap refuses it; else return None."""
        gate = self._candidate.endpoint.gate
        if self._candidate.endpoint.breaker.state is not BreakerState.CLOSED or not gate.try_enter():
            return None
        try:
            if self._take_turn() > 0:
                return None
            charge_id = await self._reserve()
            self.hedged = True
            self._means.stats.hedges += 1
            return await self._send(charge_id)
        except OverBudget:
            return None
        finally:
            self.give_back_turn()
            gate.leave()

    def _take_turn(self) -> float:
        self._has_turn = True
        return self._candidate.take_turn(self._request)

    def _pause_s(self, reply: Reply) -> float:
        doubled_s = min(self._means.settings.backoff_s * 2.0 ** (self.attempts - 1), _LONGEST_BACKOFF_S)
        turn_s = self._take_turn()
        return max(doubled_s * self._means.random.uniform(0.5, 1.5), reply.retry_after_s, turn_s)


def _scrub(text: str, key: str | None, shortest: int) -> str:
    """`text` without the key, which a provider may have repeated in it."""
    return text.replace(key, "***") if key and len(key) >= shortest else text
