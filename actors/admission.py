"""Admission: starts episodes while the engine has room; those that wait for a candidate take none of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.load import Load


class Admission:
    """Counts the sequences that generate, and starts a new episode, first come, first served, while they are too few.

    An episode under way is never held back: what it has read is in the engine's cache, and it may be of a group that
    others wait for. So `generating` may rise above `target`, and new episodes then wait until it has come down; those
    that wait for a candidate are not counted, and as many of them are under way as it takes to keep the engine at its
    target, whatever the candidates' latency.
    """

    def __init__(self, target: int) -> None:
        """`target`: sequences that the engine is to generate at a time."""
        self.target = target
        self.load = Load()  # of sequences that generate
        self.under_way = 0  # episodes started and not ended
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def generating(self) -> int:
        """Sequences that generate now, and episodes that are about to."""
        return self.load.count

    @asynccontextmanager
    async def episode(self) -> AsyncIterator[Place]:
        """Wait for a place, and hold it until the episode first generates."""
        if self._waiting or self.generating >= self.target:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()  # the place was given just then
                raise
        else:
            self.load.change(1)
        self.under_way += 1
        place = Place(self)
        try:
            yield place
        finally:
            self.under_way -= 1
            place.give_up()

    def _leave(self) -> None:
        self.load.change(-1)
        while self._waiting and (self._waiting[0].done() or self.generating < self.target):
            turn = self._waiting.popleft()
            if not turn.done():
                self.load.change(1)
                turn.set_result(None)


class Place:
    """An episode's place among those that generate; it has one from its admission to its first turn, and in turns."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._held = True

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One turn of generation."""
        if not self._held:
            self._admission.load.change(1)
        self._held = True
        try:
            yield
        finally:
            self.give_up()

    def give_up(self) -> None:
        """The episode does not generate now."""
        if self._held:
            self._held = False
            self._admission._leave()
