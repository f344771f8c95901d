"""The responder's calls: recorded in the run's ledger and limited by its caps, from whichever process."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up import write_checkpoint

from actors.ledger.ledger import Ledger
from actors.pool.calls import CallRequest
from actors.pool.cards import ModelCard
from benchmarks.world.server import Answer, CandidateServer
from cluster.players.responder import PolicySource, check_candidates, hire_caller, open_source
from rewards.transcript import CallStatus


class Echo:
    """Replies with the question."""

    models = ("small",)

    def answer(self, model: str, query: str, question_id: str | None) -> Answer:
        return Answer(query, 500, 100, 0.0)


def source_of(folder: Path, *settings: str) -> PolicySource:
    """A run whose configuration has these settings of the pool."""
    write_checkpoint(folder / "checkpoints" / "step_000007")
    (folder / "config.yaml").write_text(f"candidates: {{pool: {{{', '.join(settings)}}}}}\n", encoding="utf-8")
    return open_source(folder)


async def ask(source: PolicySource, cards: list[ModelCard], query: str) -> CallStatus:
    caller = hire_caller(source, cards)
    try:
        return (await caller.ask(CallRequest("small", "small", query))).status
    finally:
        await caller.close()


def card(url: str) -> ModelCard:
    return ModelCard(name="small", descriptor="d", base_url=url, price_in_usd_per_mtok=1, price_out_usd_per_mtok=1)


async def spent(source: PolicySource) -> dict[str, float]:
    ledger = await Ledger.open(str(source.ledger), run="")
    try:
        return await ledger.spent_usd(run=source.booked_as)
    finally:
        await ledger.close()


async def test_a_run_that_asks_its_ledger_first_is_asked_from_it(tmp_path: Path) -> None:
    source = source_of(tmp_path / "run", "ledger: cache")
    assert source.ledger == tmp_path / "run" / "ledger.sqlite"
    server = CandidateServer(Echo())
    cards = [card(await server.start())]
    await check_candidates(source, cards)
    assert await ask(source, cards, "who?") is CallStatus.OK
    await server.stop()
    assert await ask(source, cards, "who?") is CallStatus.OK  # only the ledger can have answered
    assert await spent(source) == pytest.approx({"small": 0.0006})


async def test_a_cap_holds_over_all_questions_to_the_policy_whoever_asks(tmp_path: Path) -> None:
    source = source_of(tmp_path / "run", "cap_usd_per_run: 0.0015")
    server = CandidateServer(Echo())
    cards = [card(await server.start())]
    try:
        statuses = [await ask(source, cards, f"who is {number}?") for number in range(4)]
    finally:
        await server.stop()
    assert statuses == [CallStatus.OK] * 2 + [CallStatus.OVER_BUDGET] * 2
    assert await spent(source) == pytest.approx({"small": 0.0012})


async def test_a_policy_without_a_run_has_its_calls_in_the_folder_of_runs(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "policy")
    source = open_source(tmp_path / "policy", overrides=[f"run.folder={tmp_path / 'runs'}"])
    server = CandidateServer(Echo())
    cards = [card(await server.start())]
    try:
        await ask(source, cards, "who?")
    finally:
        await server.stop()
    assert source.ledger == tmp_path / "runs" / "ledger.sqlite"
    assert source.booked_as == "policy/answers"
    assert await spent(source) == pytest.approx({"small": 0.0006})


async def test_nothing_is_written_where_the_ledger_is_off(tmp_path: Path) -> None:
    source = source_of(tmp_path / "run", "ledger: 'off'")
    server = CandidateServer(Echo())
    try:
        await check_candidates(source, [card(await server.start())])
    finally:
        await server.stop()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoints", "config.yaml"]
