"""Settings of engine and episode: impossible ones are refused, and the message gives the remedy."""

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


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_a_positive_number_of_dollars(wrong: float) -> None:
    assert EpisodeSettings(budgets_usd=(0.1, 0.2), eval_budget_usd=0.1).budgets_usd == (0.1, 0.2)
    with pytest.raises(ValidationError, match=r"budgets_usd holds .* must be a positive number"):
        EpisodeSettings(budgets_usd=(0.1, wrong))
    with pytest.raises(ValidationError, match="eval_budget_usd"):
        EpisodeSettings(eval_budget_usd=wrong)


def test_several_searches_need_a_prompt_that_explains_them() -> None:
    assert EpisodeSettings(prompt="paper_qwen", parallel_searches=3).parallel_searches == 3
    with pytest.raises(ValidationError, match=r"parallel_searches=3 with prompt=compact.*set another prompt"):
        EpisodeSettings(prompt="compact", parallel_searches=3)


def test_the_wait_for_a_slot_is_bounded() -> None:
    assert PoolSettings().queue_timeout_s == 600
    with pytest.raises(ValidationError, match="queue_timeout_s"):
        PoolSettings(queue_timeout_s=0)
