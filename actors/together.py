"""Coroutines run together: the first error cancels the others, and only that error is raised."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


async def run_together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines concurrently and return their results in order.

    If one raises, the others are cancelled and awaited. Its error is raised unwrapped; errors that the others raised
    meanwhile are added to it as notes.
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
