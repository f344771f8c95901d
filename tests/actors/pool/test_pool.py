"""The pool: who owns which endpoint, and what becomes of it when a caller is late or dead."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from actors.pool.caller import CallerStats
from actors.pool.calls import CallRequest
from actors.pool.cards import ModelCard
from actors.pool.pool import CandidatePool, assign_endpoints
from actors.pool.settings import PoolSettings
from actors.pool.transport import PoolError
from rewards.transcript import CallStatus


def card(name: str, port: int) -> ModelCard:
    return ModelCard(
        name=name, descriptor="for tests", base_url=f"http://127.0.0.1:{port}/v1", price_out_usd_per_mtok=1.0
    )


CARDS = [card("a", 1), card("b", 2), card("c", 1), card("d", 3)]


def names(shares: list[list[ModelCard]]) -> list[list[str]]:
    return [[card.name for card in share] for share in shares]


@pytest.mark.parametrize(
    ("callers", "expected"),
    [
        (1, [["a", "c", "b", "d"]]),
        (2, [["a", "c", "d"], ["b"]]),
        (3, [["a", "c"], ["b"], ["d"]]),
        (9, [["a", "c"], ["b"], ["d"]]),
    ],
)
def test_cards_of_one_endpoint_have_one_owner(callers: int, expected: list[list[str]]) -> None:
    assert names(assign_endpoints(CARDS, PoolSettings(callers=callers))) == expected


def test_an_overriding_url_is_one_endpoint_and_has_one_owner() -> None:
    settings = PoolSettings(callers=3, base_url="http://127.0.0.1:9/v1")
    assert names(assign_endpoints(CARDS, settings)) == [["a", "b", "c", "d"]]


class Caller:
    """A candidate caller that has spent some money and then, told to, answers nothing more."""

    def __init__(self, usd: dict[str, float]) -> None:
        self.usd = usd
        self.asleep = False

    async def sleep(self) -> None:
        self.asleep = True

    async def stats(self) -> CallerStats:
        if self.asleep:
            await asyncio.sleep(600)
        return CallerStats(1, 1, 0, 0, {"ok": 1}, self.usd)

    async def ask(self, request: CallRequest) -> None:
        await asyncio.sleep(600)


@pytest.fixture
def pool(ray_cluster: None) -> Iterator[CandidatePool]:
    actor = ray.remote(num_cpus=0)(Caller)
    callers: tuple[Any, ...] = (actor.remote({"a": 1.0, "c": 0.5}), actor.remote({"b": 2.0}))
    settings = PoolSettings(queue_timeout_s=0.1, total_timeout_s=0.1)
    pool = CandidatePool(callers, {"a": 0, "c": 0, "b": 1}, settings)
    yield pool
    pool.close()


@pytest.mark.engine
@pytest.mark.parametrize("dead", [True, False], ids=["dead", "slow"])
def test_what_a_lost_caller_had_spent_is_not_forgotten(
    pool: CandidatePool, caplog: pytest.LogCaptureFixture, dead: bool
) -> None:
    before = pool.spent_usd()
    assert before == {"a": 1.0, "c": 0.5, "b": 2.0}
    if dead:
        ray.kill(pool.callers[0])
    else:
        ray.get(pool.callers[0].sleep.remote(), timeout=30)
    with caplog.at_level(logging.WARNING):
        assert pool.spent_usd(timeout_s=5) == before
    assert "candidate caller 0 (of a, c)" in caplog.text


@pytest.mark.engine
async def test_a_caller_that_hangs_is_a_timeout_that_names_it(
    pool: CandidatePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.pool.pool._ASK_GRACE_S", 0.5)
    call = await pool.ask(CallRequest("b", "b", "q"))
    assert call.status is CallStatus.TIMEOUT
    assert "candidate caller 1 (of b)" in call.error
    assert call.latency_s >= 0.7


@pytest.mark.engine
async def test_a_caller_that_died_is_named(pool: CandidatePool) -> None:
    ray.kill(pool.callers[1])
    call = await pool.ask(CallRequest("b", "b", "q"))
    assert call.status is CallStatus.PROVIDER_ERROR
    assert "candidate caller 1 (of b) died" in call.error


@pytest.mark.engine
def test_a_check_that_is_late_is_an_error_that_names_the_deadline(ray_cluster: None) -> None:
    started = time.monotonic()
    with pytest.raises(PoolError, match=r"candidate caller 0 \(of a\).* within check_timeout_s=0\.001"):
        CandidatePool.start([card("a", 1)], PoolSettings(), check_timeout_s=0.001)
    assert time.monotonic() - started < 30
