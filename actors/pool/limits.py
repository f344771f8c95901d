"""Limits on the requests to a provider: a rate per minute, and concurrent calls, as many as it accepts."""

from __future__ import annotations

import asyncio
import time
from collections import deque

_BURST_S = 1.0  # a bucket lets through its rate of this many seconds at once
_RAISE = 1.0  # slots that a window of served calls adds
_LOWER = 0.5  # slots that one rejection takes: a window of rejections halves the limit


class TokenBucket:
    """A rate limit, stored as the time from which everything taken so far is allowed.

    Takers are served in the order in which they ask. A taker may take more than the bucket holds: it and the takers
    behind it then wait for the rest. Time is monotonic.
    """

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / 60.0
        self._burst = max(1.0, self._rate * _BURST_S)
        self._paid_until = time.monotonic() - self._burst / self._rate

    def take(self, amount: float) -> float:
        """Take `amount`; return the seconds to wait before using it."""
        now = time.monotonic()
        start = max(self._paid_until, now - self._burst / self._rate)
        self._paid_until = start + amount / self._rate
        return max(0.0, self._paid_until - now)

    def give_back(self, amount: float) -> None:
        """Give back an unused amount; a negative amount takes the excess that was used."""
        self._paid_until -= amount / self._rate


class Gate:
    """Slots for concurrent calls, granted first come, first served.

    Their number adapts by additive increase and multiplicative decrease (Chiu and Jain, 1989), counted per response
    instead of per round: every served call adds 1/limit of a slot, every rejection takes half a slot. So a single
    rejection, which says nothing about load, costs little, and a provider that rejects every call halves the limit
    within a window.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._limit = float(ceiling)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0

    @property
    def limit(self) -> int:
        """The number of calls that may be in progress now."""
        return int(self._limit)

    def try_enter(self) -> bool:
        """Take a slot if one is free and nobody waits for it."""
        if self._waiting or self.in_flight >= int(self._limit):
            return False
        self.in_flight += 1
        return True

    async def enter(self) -> None:
        """Wait for a slot and take it; the deadline is up to the caller."""
        if self.try_enter():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the slot was granted just before
                self.leave()
            else:
                self._admit()  # those behind it may be able to enter now
            raise

    def leave(self) -> None:
        """Give a slot back; the call that has waited longest gets it."""
        self.in_flight -= 1
        self._admit()

    def served(self) -> None:
        """The provider took a call: raise the limit a little, if at least half of its slots are in use."""
        if self._limit < self._ceiling and 2 * self.in_flight >= self._limit:
            self._limit = min(self._ceiling, self._limit + _RAISE / self._limit)
            self._admit()

    def rejected(self) -> None:
        """The provider said that it gets too many calls: lower the limit."""
        self._limit = max(1.0, self._limit - _LOWER)

    def _admit(self) -> None:
        while self._waiting and (self._waiting[0].done() or self.in_flight < int(self._limit)):
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
