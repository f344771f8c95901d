"""Hedging: sends a second request beside a slow one, and takes the first good reply of the two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from actors.pool.reply import Reply


async def first_good(
    first: Coroutine[Any, Any, Reply], slow_s: float, second: Callable[[], Coroutine[Any, Any, Reply | None]]
) -> Reply:
    """Send `first`, and `second` too if there is no reply after `slow_s` seconds; the first good reply or refusal wins.

    `second` returns None if it was not sent. A fault is returned only if no other reply can come. When this returns or
    is cancelled, both requests have ended: the loser is cancelled. An exception of either request is raised.
    """
    requests: set[asyncio.Task[Reply | None]] = {asyncio.create_task(first)}
    try:
        under_way: set[asyncio.Task[Reply | None]]
        done, under_way = await asyncio.wait(requests, timeout=slow_s)
        if not done:
            requests.add(asyncio.create_task(second()))
            under_way = set(requests)
        reply = _best(done, None)
        while under_way and not (reply and _final(reply)):
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            reply = _best(done, reply)
        assert reply is not None, "the first request returns a reply or raises"
        return reply
    finally:
        for task in requests:
            task.cancel()
        await asyncio.gather(*requests, return_exceptions=True)


def _best(done: set[asyncio.Task[Reply | None]], before: Reply | None) -> Reply | None:
    """A good reply or a refusal if there is one, else a fault."""
    replies = [reply for reply in (before, *(task.result() for task in done)) if reply is not None]
    return next(filter(_final, replies), replies[-1] if replies else None)


def _final(reply: Reply) -> bool:
    """True if it is useless to wait for the other reply: if one request is refused, the other will be, too."""
    return reply.good or bool(reply.refusal)
