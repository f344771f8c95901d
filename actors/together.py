"""Coroutines run together: all end with the first that raises, and that one error is what comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


async def run_together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines at once and return their results in their order.

    Where one raises, the others are cancelled and waited for. Its error is raised as it is, and what others raised
    meanwhile is noted on it.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failures:
        first, *others = _errors(failures)
        for other in others:
            first.add_note(f"meanwhile: {other!r}")
        raise first from None
    return [task.result() for task in tasks]


def _errors(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _errors(inner)
    else:
        yield error
