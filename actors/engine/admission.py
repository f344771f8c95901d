"""Admission: starts episodes while the engine has room; an episode that waits for a candidate takes no room."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.engine.state import EngineState
from actors.load import Load


class Admission:
    """Starts new episodes, first come, first served, while fewer sequences generate than the target.

    A started episode is never held back: its tokens are in the engine's cache, and the other episodes of its group
    may be waiting for it. So `generating` may exceed `target`; new episodes then wait until it has fallen below.
    Episodes that wait for a candidate are not counted. So enough episodes are started to keep the engine at its
    target, however slow the candidates are.

    The target adapts to the engine's memory. When requests wait for memory, the target falls to the number of running
    requests, which is the number that fits. Every turn that ends then adds 1/target to it: additive increase (Chiu
    and Jain, 1989).
    """

    def __init__(self, ceiling: int) -> None:
        """`ceiling`: most sequences that should generate at a time, if they fit in the engine's memory."""
        self._ceiling = ceiling
        self._target = float(ceiling)
        self.load = Load()  # of sequences that generate
        self.under_way = 0  # episodes started and not ended
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def target(self) -> int:
        """Sequences that should generate at a time, given the engine's memory; at least 1."""
        return int(self._target)

    def hear(self, state: EngineState) -> None:
        """Lower the target if the engine's state after a step shows that memory is short."""
        if state.crowded:
            self._target = min(self._target, max(1.0, float(state.running)))

    @property
    def generating(self) -> int:
        """Sequences that generate now, plus episodes that are about to generate."""
        return self.load.count

    @asynccontextmanager
    async def episode(self) -> AsyncIterator[AdmissionSlot]:
        """Wait for a place; the episode holds it until its first turn has ended."""
        if self._waiting or self.generating >= self.target:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()  # the place was granted just before the cancellation
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
    """An episode's place among the sequences that generate.

    The episode holds it from its admission to the end of its first turn, and during every later turn.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._held = True

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold the place during one turn of generation."""
        if not self._held:
            self._admission.load.change(1)
        self._held = True
        try:
            yield
        finally:
            self.give_up()

    def give_up(self) -> None:
        """Free the place, if it is held: the episode does not generate now."""
        if self._held:
            self._held = False
            self._admission._leave()
