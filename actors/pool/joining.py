"""Joins identical calls: those that come while the first is under way wait for its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from actors.ledger.entry import Settled
from actors.pool.stats import CallerStats


@dataclass(slots=True)
class _Shared:
    task: asyncio.Task[Settled]
    waiting: int = 0


class Joining:
    """Calls under way, by their request hash."""

    def __init__(self, stats: CallerStats) -> None:
        self._stats = stats
        self._under_way: dict[str, _Shared] = {}
        self._tasks: set[asyncio.Task[Settled]] = set()  # those too that were cancelled and have not ended

    async def run(self, digest: str, call: Callable[[], Coroutine[Any, Any, Settled]]) -> Settled:
        """Run `call`, or wait for the identical one. It ends when nobody waits for it any more."""
        shared = self._under_way.get(digest)
        if shared is None:
            shared = self._under_way[digest] = _Shared(asyncio.create_task(call()))
            self._tasks.add(shared.task)
            shared.task.add_done_callback(self._tasks.discard)
        else:
            self._stats.joined += 1
        shared.waiting += 1
        try:
            # A shield: whoever of them is cancelled, the others still wait for the reply.
            return await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if self._under_way.get(digest) is shared and (shared.task.done() or not shared.waiting):
                del self._under_way[digest]
                shared.task.cancel()

    async def wait(self) -> None:
        """Until all calls have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)
