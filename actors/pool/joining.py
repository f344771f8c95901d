"""Joins identical calls: calls that come while the first is in progress wait for its outcome."""

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
    """The calls in progress, by their request hash."""

    def __init__(self, stats: CallerStats) -> None:
        self._stats = stats
        self._under_way: dict[str, _Shared] = {}
        self._tasks: set[asyncio.Task[Settled]] = set()  # also cancelled ones that have not ended yet

    async def run(self, digest: str, call: Callable[[], Coroutine[Any, Any, Settled]]) -> Settled:
        """Run `call`, or wait for the identical one in progress. A call that nobody waits for any more is cancelled."""
        shared = self._under_way.get(digest)
        if shared is None:
            shared = self._under_way[digest] = _Shared(asyncio.create_task(call()))
            self._tasks.add(shared.task)
            shared.task.add_done_callback(self._tasks.discard)
        else:
            self._stats.joined += 1
        shared.waiting += 1
        try:
            # Shielded, because the others that wait still need the reply if this one is cancelled.
            return await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if self._under_way.get(digest) is shared and (shared.task.done() or not shared.waiting):
                del self._under_way[digest]
                shared.task.cancel()

    async def wait(self) -> None:
        """Wait until all calls have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)
