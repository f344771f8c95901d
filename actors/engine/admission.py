"""Admission: starts episodes while the engine has room; those that wait for a candidate take none of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.engine.state import EngineState
from actors.load import Load


class Admission:
    """Counts the sequences that generate, and starts a new episode, first come, first served, while they are too few.

    An episode under way is never held back: what it has read is in the engine's cache, and it may be of a group that
    others wait for. So `generating` may rise above `target`, and new episodes then wait until it has come down; those
    that wait for a candidate are not counted, and as many of them are under way as it takes to keep the engine at its
    target, whatever the candidates' latency.

    The target adapts to the engine's memory. Where requests wait for it, the target falls to what runs, which is what
    fits; every turn that ends then adds 1/target to it, as in a window of additive increase (Chiu and Jain, 1989).
    """

    def __init__(self, ceiling: int) -> None:
        """`ceiling`: sequences that the engine is to generate at a time, if they fit in its memory."""
        self._ceiling = ceiling
        self._target = float(ceiling)
        self.load = Load()  # of sequences that generate
        self.under_way = 0  # episodes started and not ended
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def target(self) -> int:
        """Sequences that the engine is to generate at a time, as things are; at least 1."""
        return int(self._target)

    def hear(self, state: EngineState) -> None:
        """The engine's state after a step."""
        if state.crowded:
            self._target = min(self._target, max(1.0, float(state.running)))

    @property
    def generating(self) -> int:
        """Sequences that generate now, and episodes that are about to."""
        return self.load.count

    @asynccontextmanager
    async def episode(self) -> AsyncIterator[AdmissionSlot]:
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
        place = AdmissionSlot(self)
        try:
            yield place
        finally:
            self.under_way -= 1
            place.give_up()

    def _leave(self) -> None:
        self.load.change(-1)
        self._target = min(float(self._ceiling), self._target + 1 / self._target)
        while self._waiting and (self._waiting[0].done() or self.generating < self.target):
            turn = self._waiting.popleft()
            if not turn.done():
                self.load.change(1)
                turn.set_result(None)


class AdmissionSlot:
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
