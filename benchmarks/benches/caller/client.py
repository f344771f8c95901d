"""The bench's side of a call: a caller as a run has it, and many calls through it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.pool.caller import CandidateCaller
from actors.pool.calls import CallRequest
from actors.pool.cards import ModelCard
from actors.pool.settings import PoolSettings
from rewards.transcript import RouteCall

QUESTION = "Which town is meant in question number {}?"  # of the same length in tokens up to number 9,999
LEDGER_ENV = "ROUTER_R1_BENCH_LEDGER"  # URL of a PostgreSQL ledger in place of SQLite


@dataclass(frozen=True, slots=True)
class Ledgers:
    """Where the ledgers of a bench go: a file of its own for each run in `folder`, or all into one database."""

    folder: Path
    url: str | None = None

    def of(self, run: str) -> str:
        return self.url or f"sqlite:///{self.folder / run}.sqlite"


@asynccontextmanager
async def open_caller(
    cards: Sequence[ModelCard], ledgers: Ledgers, run: str, **settings: Any
) -> AsyncIterator[CandidateCaller]:
    """A caller with everything on: its ledger in `record` unless told otherwise, limits, and a cap on the run."""
    common = {"ledger": "record", "cap_usd_per_run": 1e6, "max_in_flight": 256}
    caller = CandidateCaller(cards, PoolSettings.model_validate(common | settings), ledger_url=ledgers.of(run), run=run)
    try:
        yield caller
    finally:
        await caller.close()


async def ask_all(
    caller: CandidateCaller,
    count: int,
    in_flight: int,
    model: str = "candidate",
    first: int = 0,
    more: Callable[[int], str] | None = None,
) -> list[RouteCall]:
    """Ask questions number `first` to `first + count - 1`, so many at a time; `more` is added to a question's text."""
    numbers = iter(range(first, first + count))
    calls: list[RouteCall] = []

    async def work() -> None:
        for number in numbers:
            calls.append(await caller.ask(request(number, model, more(number) if more else "")))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(work())
    return calls


def request(number: int, model: str = "candidate", more: str = "") -> CallRequest:
    """Question number `number`, with more text behind it, in an episode of its own."""
    return CallRequest(model, model, QUESTION.format(number) + more, episode=f"e{number}")


def ledger_url() -> str | None:
    return os.environ.get(LEDGER_ENV)
