"""The probe: its findings from one call to a candidate."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from actors.pool.probe import probe
from actors.pool.settings import PoolSettings


@pytest.mark.parametrize(
    ("usage", "reported", "plausible", "error"),
    [
        ({"prompt_tokens": 40, "completion_tokens": 5}, True, True, ""),
        ({"prompt_tokens": 40_000, "completion_tokens": 5}, True, False, "more tokens are billed than this question"),
        ({"prompt_tokens": 40, "completion_tokens": 17}, True, False, "a reply of 16 can take"),
        (None, False, False, "usage missing"),
    ],
)
async def test_what_is_billed(pool: Any, usage: object, reported: bool, plausible: bool, error: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        choice = {"message": {"content": "Paris."}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": usage})

    [found] = await probe([pool.card(await pool.provider(handler))], PoolSettings())
    assert (found.reachable, found.usage_reported, found.price_plausible) == (True, reported, plausible)
    assert found.good == plausible
    assert error in found.error
    assert bool(found.error) != plausible
    assert found.cost_usd > 0
