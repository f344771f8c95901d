"""The bench of the callers: its provider keeps correct books, and a small bench measures every row on both ledgers."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from benchmarks.benches.caller import bench, outage
from benchmarks.benches.caller.client import LEDGER_ENV, Ledgers
from benchmarks.benches.caller.provider import PRICE_IN, PRICE_OUT, Provider, start_provider
from benchmarks.benches.caller.server import REPLY_TOKENS

pytestmark = pytest.mark.thorough

SMALL = bench.Size(
    repetitions=1,
    calls=500,
    crowd=100,
    hits=20,
    race=900,
    paid_for=500,  # the last few calls are refused, because their reservation is larger than the rest of the cap
    storm=200,
    before_s=1.0,
    down_s=4.0,
    after_s=3.0,
    rivals=False,
    actor=False,
)
# Speed is meaningless at this size and beside other tests, and the memory includes the whole test session's.
UNFIT_HERE = (
    "over the bare loop",
    "wall time",
    "cache hit",
    "rate over that before",
    "resident memory",
    "until the breaker opens",
)


async def ask(provider: Provider, session: aiohttp.ClientSession, text: str = "x" * 40) -> tuple[int, bytes]:
    payload = {"model": "candidate", "messages": [{"role": "user", "content": text}]}
    async with session.post(f"{provider.base_url}/chat/completions", json=payload) as response:
        return response.status, await response.read()


async def test_the_provider_bills_what_it_generates() -> None:
    async with start_provider() as provider, aiohttp.ClientSession() as session:
        status, body = await ask(provider, session)
        usage = json.loads(body)["usage"]
        assert status == 200
        assert usage["prompt_tokens"] == 12  # the tokens of 40 characters
        assert usage["completion_tokens"] == REPLY_TOKENS
        assert (await provider.books())["usd"] == pytest.approx((12 * PRICE_IN + REPLY_TOKENS * PRICE_OUT) / 1e6)

        await provider.set(wrong_usage=1.0)
        status, body = await ask(provider, session)
        assert json.loads(body)["usage"]["prompt_tokens"] == -1
        assert (await provider.books())["prompt_tokens"] == 12

        for fault, answer, billed in (("rate_limit", 429, 0), ("server_error", 500, 0), ("invalid_json", 200, 1)):
            await provider.set(**{fault: 1.0})
            status, body = await ask(provider, session)
            assert status == answer
            books = await provider.books()
            assert (books["requests"], books["billed"], books["faults"]) == (1, billed, {fault: 1})
        with pytest.raises(json.JSONDecodeError):
            json.loads(body)

        await provider.set(cut_off=1.0)
        with pytest.raises(aiohttp.ClientPayloadError):
            await ask(provider, session)
        assert (await provider.books())["billed"] == 1

        await provider.set(hang=1.0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(provider, session), 0.1)
        assert (await provider.books())["billed"] == 1

        await provider.set(median_s=3.0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(provider, session), 0.05)
        await asyncio.sleep(3.2)
        assert (await provider.books())["billed"] == 0  # the client had disconnected


async def test_the_provider_goes_and_comes_back_on_its_port() -> None:
    async with start_provider() as provider, aiohttp.ClientSession() as session:
        before = provider.port
        await provider.down()
        with pytest.raises(aiohttp.ClientConnectionError):
            await ask(provider, session)
        await provider.up()
        assert provider.port == before
        assert (await ask(provider, session))[0] == 200


def test_each_run_has_a_ledger_of_its_own_but_in_a_database(tmp_path: Path) -> None:
    assert Ledgers(tmp_path).of("a") != Ledgers(tmp_path).of("b")
    assert Ledgers(tmp_path, "postgresql://x/y").of("a") == "postgresql://x/y"


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str | None]:
    """URL of a ledger; None for the bench's own SQLite files."""
    monkeypatch.delenv(LEDGER_ENV, raising=False)
    if request.param == "sqlite":
        yield None
        return
    from postgres import postgres_server

    with postgres_server() as server:
        yield server.new_database()


@pytest.mark.engine
def test_every_row_holds_at_a_small_size(ledger: str | None) -> None:
    figures = bench.measure(SMALL, ledger)
    assert all(math.isfinite(figure.value) for figure in figures)
    broken = [
        figure
        for figure in figures
        if figure.holds is False and not any(unfit in figure.figure for unfit in UNFIT_HERE)
    ]
    assert broken == []


@pytest.mark.engine
def test_a_killed_caller_books_nothing_twice(ray_cluster: None, tmp_path: Path) -> None:
    found = asyncio.run(kill_once(Ledgers(tmp_path)))
    assert found.ok_share == 1
    assert found.booked == pytest.approx(found.calls)


async def kill_once(ledgers: Ledgers) -> outage.Kill:
    async with start_provider() as provider:
        return await outage.kill(provider, ledgers, "killed", 40)
