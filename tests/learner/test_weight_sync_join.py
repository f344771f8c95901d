"""Joining the weight-sync group: an engine that fails is heard at once, not after the group's deadline."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient

from learner.rank import LearnerRank
from learner.settings import LearnerSettings
from learner.weight_sync import GlooTrainerInitInfo, GlooTrainerWeightTransferEngine, ModelSource


class Refusing(VLLMWeightSyncClient):
    """Engines that can't join."""

    def init_weight_transfer_engine(self, init_info: Any) -> None:
        raise RuntimeError("engine 0 has no such backend")

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: Any) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


def test_an_engine_that_fails_to_join_is_heard_at_once() -> None:
    info = GlooTrainerInitInfo(master_address="127.0.0.1", world_size=2, bucket_bytes=1000, timeout_s=20, rank=0)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="engine 0 has no such backend"):
        GlooTrainerWeightTransferEngine.trainer_init(
            info, client=Refusing(), source=ModelSource(torch.nn.Linear(2, 2), torch.float32)
        )
    assert time.monotonic() - started < 10


def test_a_late_engine_is_named_before_the_gang_s_own_deadline() -> None:
    rank = object.__new__(LearnerRank)  # the gang itself takes no part in this
    rank.settings, rank.rank, rank.model = LearnerSettings(step_timeout_s=100), 1, torch.nn.Linear(2, 2)
    rank.connect_engines([], "gloo", 1, "float32")
    assert rank.sender._client is not None
    assert 3 * rank.sender._client._timeout_s < 100  # a sync makes three waits in turn
