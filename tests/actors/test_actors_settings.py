"""Settings of what makes trajectories: what can't be is refused with its remedy."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from actors.pool.settings import PoolSettings
from actors.settings import EngineSettings, EpisodeSettings


def test_graph_capture_needs_a_gpu() -> None:
    with pytest.raises(ValidationError, match=r"enforce_eager=false .*device=cuda"):
        EngineSettings(device="cpu", enforce_eager=False)
    assert not EngineSettings(device="cuda", enforce_eager=False).enforce_eager


def test_no_more_rounds_than_turn_seeds() -> None:
    assert EpisodeSettings(max_rounds=15).max_rounds == 15
    with pytest.raises(ValidationError, match="max_rounds"):
        EpisodeSettings(max_rounds=16)


def test_the_wait_for_a_slot_is_bounded() -> None:
    assert PoolSettings().queue_timeout_s == 600
    with pytest.raises(ValidationError, match="queue_timeout_s"):
        PoolSettings(queue_timeout_s=0)
