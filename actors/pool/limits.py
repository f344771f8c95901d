"""Limits on what is sent to a provider: a rate per minute, and calls under way that adapt to what it allows."""

from __future__ import annotations

import asyncio
import time
from collections import deque

_BURST_S = 1.0  # seconds of its rate that a bucket lets through at once
_RAISE = 1.0  # slots that a window of served calls adds
_LOWER = 0.5  # slots that one rejection takes: a window of rejections halves the limit


class TokenBucket:
    """A rate limit, kept as the time at which all that was taken so far will have been allowed.

    Takers are served in the order in which they ask, and one may take more than the bucket holds: it, and those
    behind it, wait for the rest. Time is monotonic.
    """

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / 60.0
        self._burst = max(1.0, self._rate * _BURST_S)
        self._paid_until = time.monotonic() - self._burst / self._rate

    def take(self, amount: float) -> float:
        """Take; return the seconds to wait before using it."""
        now = time.monotonic()
        start = max(self._paid_until, now - self._burst / self._rate)
        self._paid_until = start + amount / self._rate
        return max(0.0, self._paid_until - now)

    def give_back(self, amount: float) -> None:
        """Return what was taken and not used; a negative amount takes what was used beyond."""
        self._paid_until -= amount / self._rate


class Gate:
    """Slots for calls under way, given out first come, first served.

    How many there are adapts by additive increase and multiplicative decrease (Chiu and Jain, 1989), counted per
    response instead of per round: every served call adds 1/limit of a slot, every rejection takes half a slot.
    Single rejections, which say nothing about load, so cost little, and a provider that rejects all halves the
    limit within a window.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._limit = float(ceiling)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0

    @property
    def limit(self) -> int:
        """Calls that may be under way now."""
        return int(self._limit)

    def try_enter(self) -> bool:
        """Take a slot if one is free and nobody waits for it."""
        if self._waiting or self.in_flight >= int(self._limit):
            return False
        self.in_flight += 1
        return True

    async def enter(self) -> None:
        """Wait for a slot and take it; there is no deadline here, the caller sets one."""
        if self.try_enter():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the slot was handed over just then
                self.leave()
            else:
                self._admit()  # in case those behind it can go now
            raise

    def leave(self) -> None:
        """Give a slot back; the longest waiting gets it."""
        self.in_flight -= 1
        self._admit()

    def served(self) -> None:
        """The provider took a call: allow a little more, where the limit is what holds calls back."""
        if self._limit < self._ceiling and 2 * self.in_flight >= self._limit:
            self._limit = min(self._ceiling, self._limit + _RAISE / self._limit)
            self._admit()

    def rejected(self) -> None:
        """The provider said that these are too many."""
        self._limit = max(1.0, self._limit - _LOWER)

    def _admit(self) -> None:
        while self._waiting and (self._waiting[0].done() or self.in_flight < int(self._limit)):
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
