"""Servers and cards for the tests of the pool: real HTTP on loopback, nothing patched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from aiohttp import web

from actors.pool.caller import CandidateCaller
from actors.pool.cards import ModelCard
from actors.pool.settings import PoolSettings
from benchmarks.world.server import Answer, CandidateServer, FaultSettings, UnknownModel

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Echo:
    """Answers with the query itself; each word counts as one token."""

    def __init__(self, models: Sequence[str] = ("small", "large"), latency_s: float = 0.0) -> None:
        self.models = models
        self.latency_s = latency_s
        self.question_ids: list[str | None] = []

    def answer(self, model: str, query: str, question_id: str | None) -> Answer:
        if model not in self.models:
            raise UnknownModel(model)
        self.question_ids.append(question_id)
        return Answer(f"echo: {query}", len(query.split()) + 1, 20, self.latency_s)


class Pool:
    """Starts servers and callers for one test, and ends them after the test."""

    def __init__(self) -> None:
        self._ends: list[Callable[[], Awaitable[object]]] = []

    def card(self, base_url: str, name: str = "small", **fields: object) -> ModelCard:
        content = {
            "name": name,
            "descriptor": "for tests",
            "base_url": base_url,
            "price_in_usd_per_mtok": 1.0,
            "price_out_usd_per_mtok": 3.0,
        }
        return ModelCard.model_validate(content | fields)

    def echo(self, latency_s: float = 0.0) -> Echo:
        return Echo(latency_s=latency_s)

    async def server(
        self, answerer: Echo | None = None, *, latency_scale: float = 1.0, **faults: float
    ) -> tuple[CandidateServer, str]:
        settings = FaultSettings.model_validate(faults)
        server = CandidateServer(answerer or Echo(), faults=settings, latency_scale=latency_scale)
        base_url = await server.start()
        self._ends.append(server.stop)
        return server, base_url

    async def provider(self, handler: Handler) -> str:
        """A server with one handler for every path, for behaviour that a well-behaved server never shows."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        self._ends.append(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    def caller(
        self, cards: Sequence[ModelCard], ledger_url: str | None = None, run: str = "run", **settings: object
    ) -> CandidateCaller:
        quick = {"connect_timeout_s": 5.0, "total_timeout_s": 5.0, "max_attempts": 3, "backoff_s": 0.01}
        caller = CandidateCaller(cards, PoolSettings.model_validate(quick | settings), ledger_url=ledger_url, run=run)
        self._ends.append(caller.close)
        return caller

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.005)
        pytest.fail("the condition did not come true within 10 s")

    async def end(self) -> None:
        for end in reversed(self._ends):
            await end()


@pytest.fixture
async def servers() -> AsyncIterator[Pool]:
    servers = Pool()
    yield servers
    await servers.end()


@pytest.fixture
def pool(servers: Pool) -> Pool:
    return servers
