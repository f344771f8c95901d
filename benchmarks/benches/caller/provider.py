"""The bench's control of its provider: starts the server process, sets its behaviour, reads its books."""

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

PRICE_IN = 10.0  # USD per million tokens: high, so that a few wrongly booked calls make a cent
PRICE_OUT = 30.0
MAX_TOKENS = 4 * REPLY_TOKENS  # the limit on a reply, four times its real length
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
        """Set the provider's behaviour from now on, and start new books.

        Args:
            median_s: median of the lognormal latency; 0 answers at once.
            sigma: standard deviation of the latency's logarithm.
            seed: seed of latencies and faults.
            faults: fields of `FaultSettings`.
        """
        await self._say(do="set", median_s=median_s, sigma=sigma, seed=seed, faults=faults)

    async def books(self) -> dict[str, Any]:
        """The fields of `server.Books`, and `usd`, the price of the billed calls."""
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
                f"the bench's provider did not answer the command {command['do']!r} within {_ANSWER_S:g} s"
            ) from None
        if not line:
            raise CallerBenchError(f"the bench's provider ended during {command['do']!r}; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def start_provider() -> AsyncIterator[Provider]:
    """A provider that listens, and answers at once until `set`. It ends with the block, or with this process."""
    process = await asyncio.create_subprocess_exec(
        *python_command("-m", "benchmarks.benches.caller.server"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=child_environment(),
        start_new_session=True,  # Ctrl-C reaches only this process, which then ends the provider
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
