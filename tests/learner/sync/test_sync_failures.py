"""Sending weights when engines fail: the sending rank gathers all buckets, as the others do, and then raises."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from learner.rank import LearnerRank
from learner.settings import LearnerSettings
from learner.sync.gloo_sender import GlooSender
from learner.sync.weight_source import Bucket, BucketSource, Reading

LAYERS = 5


@pytest.fixture
def source() -> BucketSource:
    """A source with one bucket for each weight and each bias."""
    return BucketSource(torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(LAYERS))), torch.float32, 1)


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensors that are gathered without being used."""
    names: list[str] = []
    monkeypatch.setattr(Bucket, "gather", lambda bucket, packed: names.extend(bucket.announcement.names))
    return names


class Engines:
    """Engines that fail at the call `fail_at`."""

    world_size, timeout_s = 2, 1.0

    def __init__(self, fail_at: str) -> None:
        self._fail_at = fail_at

    def start_weight_update(self) -> None:
        self._answer("start_weight_update")

    def begin_update(self, update_info: dict[str, Any]) -> None:
        self._answer("begin_update")

    def _answer(self, call: str) -> None:
        if call == self._fail_at:
            raise RuntimeError("engine 1 is out of memory")


@pytest.mark.parametrize("call", ["start_weight_update", "begin_update"])
def test_an_engine_that_fails_before_the_stream(call: str, source: BucketSource, gathered: list[str]) -> None:
    sender = GlooSender(source, Engines(call), rank=0)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="engine 1 is out of memory"):
        sender.send_weights()
    assert gathered == [piece.name for piece in source.pieces]


def test_a_reading_that_is_ended_goes_through_the_rest_and_its_thread_gathers_no_more(
    source: BucketSource, gathered: list[str]
) -> None:
    reading = Reading(source)
    took_two, ended = threading.Event(), threading.Event()
    taken: list[str] = []
    errors: list[str] = []

    def broadcast() -> None:
        try:
            for name, _ in reading:
                taken.append(name)
                if len(taken) == 2:
                    took_two.set()
                    assert ended.wait(10)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=broadcast)
    thread.start()
    assert took_two.wait(10)
    reading.end()
    ended.set()
    thread.join(10)
    names = [piece.name for piece in source.pieces]
    assert (taken, gathered) == (names[:2], names[2:])
    assert "this reading of the weights was ended" in errors[0]
    reading.end()
    assert gathered == names[2:], "nothing is left to go through"


def test_a_reading_gives_every_tensor_a_copy(source: BucketSource) -> None:
    reading = Reading(source)
    found = dict(reading)
    assert found.keys() == {piece.name for piece in source.pieces}
    assert all(torch.equal(found[piece.name], piece.value()) for piece in source.pieces)
    assert all(found[piece.name].data_ptr() != piece.value().data_ptr() for piece in source.pieces)


def test_the_group_before_is_left_before_the_next_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If an engine died at the start of a sync, the others still wait in the old group for weights."""
    did: list[str] = []

    class Sender:
        def __init__(self, *_: Any, **__: Any) -> None:
            did.append("made")

        def connect(self) -> None:
            did.append("connected")

        def close(self) -> None:
            did.append("closed")

    monkeypatch.setattr("learner.sync.weight_sync.WeightSender", Sender)
    rank = object.__new__(LearnerRank)  # the networks are not needed
    rank.sender, rank.model, rank.rank, rank.settings = None, torch.nn.Linear(1, 1), 0, LearnerSettings()  # type: ignore[assignment]
    for _ in range(2):
        rank.connect_engines([], "gloo", 1, "float32")
    assert did == ["made", "connected", "closed", "made", "connected"]


@pytest.mark.engine
def test_an_engine_that_fails_at_the_nccl_sender(source: BucketSource, gathered: list[str]) -> None:
    from learner.sync.nccl_sender import NamedWeights, NcclSender

    sender = object.__new__(NcclSender)  # forming its group would need GPUs
    sender.source, sender.client, sender.is_sender = NamedWeights(source), Engines("start_weight_update"), True
    with pytest.raises(RuntimeError, match="engine 1 is out of memory"):
        sender.send_weights()
    assert gathered == [piece.name for piece in source.pieces]
