"""The bench's hold on its provider: starts the server process, sets how it behaves, reads its books."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from actors.child_process import child_environment, python_command
from actors.errors import ExplainedError
from actors.pool.cards import ModelCard
from benchmarks.benches.caller.server import REPLY_TOKENS

PRICE_IN = 10.0  # USD per million tokens: dear, so that a few calls booked wrongly come to a cent
PRICE_OUT = 30.0
MAX_TOKENS = 4 * REPLY_TOKENS  # a reply may be four times as long as it is
_ANSWER_S = 30.0  # deadline of a command


class CallerBenchError(ExplainedError, RuntimeError):
    """A measurement could not be made; the message says which and why."""


class Provider:
    """A server process and its port."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def card(self, name: str = "candidate") -> ModelCard:
        return ModelCard(
            name=name,
            descriptor="for the bench",
            base_url=self.base_url,
            price_in_usd_per_mtok=PRICE_IN,
            price_out_usd_per_mtok=PRICE_OUT,
            max_output_tokens=MAX_TOKENS,
        )

    async def up(self) -> None:
        self.port = (await self._say(do="up"))["port"]

    async def down(self) -> None:
        await self._say(do="down")

    async def set(self, *, median_s: float = 0.0, sigma: float = 0.0, seed: int = 0, **faults: float) -> None:
        """Behave so from now on, with new books. Latency is lognormal; at a median of 0, answers come at once."""
        await self._say(do="set", median_s=median_s, sigma=sigma, seed=seed, faults=faults)

    async def books(self) -> dict[str, Any]:
        """See `server.Books`; with `usd`, what the billed calls come to."""
        books = await self._say(do="books")
        usd = (books["prompt_tokens"] * PRICE_IN + books["completion_tokens"] * PRICE_OUT) / 1e6
        return books | {"usd": usd}

    async def _say(self, **command: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(command).encode() + b"\n")
        try:
            async with asyncio.timeout(_ANSWER_S):
                line = await stdout.readline()
        except TimeoutError:
            raise CallerBenchError(
                f"the bench's provider did not obey {command['do']!r} within {_ANSWER_S:g} s"
            ) from None
        if not line:
            raise CallerBenchError(f"the bench's provider ended at {command['do']!r}; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def start_provider() -> AsyncIterator[Provider]:
    """A provider that listens and answers at once; ended with the block, or with this process."""
    process = await asyncio.create_subprocess_exec(
        *python_command("-m", "benchmarks.benches.caller.server"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=child_environment(),
        start_new_session=True,  # Ctrl-C ends it through us
    )
    provider = Provider(process)
    try:
        await provider.up()
        yield provider
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()
