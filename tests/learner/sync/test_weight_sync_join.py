"""Joining the weight-sync group: an engine's failure is raised at once, not after the group's deadline."""

from __future__ import annotations

import time

import pytest
import torch

from actors.engine.gloo_group import GlooGroup
from learner.rank import LearnerRank
from learner.settings import LearnerSettings
from learner.sync.sync_client import both


def refuse() -> None:
    raise RuntimeError("engine 0 has no such backend")


def test_an_engine_that_fails_to_join_is_heard_at_once() -> None:
    group = GlooGroup("127.0.0.1", 0, rank=0, world_size=2, timeout_s=20)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="engine 0 has no such backend"):
        both(refuse, group.join, what="join", timeout_s=20, grace_s=1)
    assert time.monotonic() - started < 10


def test_the_engines_own_error_is_preferred_to_the_learner_s() -> None:
    def refuse_later() -> None:
        time.sleep(0.1)
        refuse()

    def fail() -> None:
        raise TimeoutError("the group did not form")

    with pytest.raises(RuntimeError, match="engine 0 has no such backend"):
        both(refuse_later, fail, what="join", timeout_s=20, grace_s=10)


def test_a_side_that_is_late_is_named() -> None:
    with pytest.raises(TimeoutError, match=r"the engines did not join within 0\.1 s"):
        both(lambda: time.sleep(30), lambda: None, what="join", timeout_s=0.1, grace_s=0.1)


def test_a_late_engine_is_named_before_the_gang_s_own_deadline() -> None:
    rank = object.__new__(LearnerRank)  # the gang itself is not needed here
    rank.settings, rank.rank = LearnerSettings(step_timeout_s=100), 1
    rank.model, rank.sender = torch.nn.Linear(2, 2), None
    rank.connect_engines([], "gloo", 1, "float32")
    assert rank.sender is not None
    assert rank.sender._client is not None
    assert 3 * rank.sender._client.timeout_s < 100  # a sync makes three waits in turn
