"""The timeline: slices of one row never overlap in part, and each has its time."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from itertools import pairwise

import pytest

from actors import timeline as module
from actors.timeline import Timeline


async def test_things_at_once_have_rows_of_their_own() -> None:
    timeline, rng = Timeline(on=True), random.Random(1)

    async def work(number: int) -> None:
        await asyncio.sleep(rng.random() / 5)
        with timeline.lane("calls") as row, timeline.slice("call", row, number=number) as facts:
            await asyncio.sleep(rng.random() / 50)
            facts["status"] = "ok"

    before = time.time()
    await asyncio.gather(*map(work, range(40)))
    slices = timeline.take()
    assert timeline.take() == []
    assert sorted(each.facts["number"] for each in slices) == list(range(40))
    assert all(each.facts["status"] == "ok" for each in slices)
    assert all(before - 0.01 <= each.began <= time.time() for each in slices)
    rows = {each.row for each in slices}
    assert 2 <= len(rows) < 40  # rows are reused
    for row in rows:
        line = sorted((each for each in slices if each.row == row), key=lambda each: each.began)
        assert all(a.began + a.seconds <= b.began + 1e-4 for a, b in pairwise(line))


def test_what_fails_is_a_slice_too() -> None:
    timeline = Timeline(on=True)
    with pytest.raises(RuntimeError), timeline.slice("turn", "episodes 0"):
        raise RuntimeError
    assert [each.name for each in timeline.take()] == ["turn"]


def test_off_it_keeps_nothing() -> None:
    timeline = Timeline(on=False)
    with timeline.slice("turn", "episodes 0"):
        pass
    timeline.add("pause", "engine", 1.0)
    assert timeline.take() == []


def test_it_does_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    timeline = Timeline(on=True)
    for _ in range(5):
        timeline.add("pause", "engine", 1.0)
    with caplog.at_level(logging.WARNING):
        assert len(timeline.take()) == 3
    assert "2 slices of the trace are lost" in caplog.text
