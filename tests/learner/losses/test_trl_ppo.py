"""PPO's policy and value losses compared with TRL's on the same tensors, recorded by `record_trl_ppo.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from learner.losses.aggregation import StepTotals
from learner.losses.policy_loss import TokenScores, TrainedTokens, policy_loss
from learner.losses.value_loss import value_loss
from learner.settings import LearnerSettings

RECORDED = json.loads((Path(__file__).parent / "trl_ppo.json").read_text(encoding="utf-8"))
TOKENS = {name: torch.tensor(values, dtype=torch.float64) for name, values in RECORDED["tokens"].items()}
COUNT = len(TOKENS["new"])


def test_policy_loss_is_trls() -> None:
    leaf = TOKENS["new"].clone().requires_grad_()
    sequence = torch.zeros(COUNT, dtype=torch.int64)
    tokens = TrainedTokens(TOKENS["old"], TOKENS["advantages"], torch.ones_like(leaf), sequence)
    settings = LearnerSettings(clip_low=RECORDED["clip"], clip_high=RECORDED["clip"], kl_coef=0)
    scores = TokenScores(leaf, torch.zeros_like(leaf))
    got = policy_loss(scores, tokens, settings, StepTotals(COUNT, 1), kl_coef=0)
    got.loss.backward()
    assert got.loss.item() == pytest.approx(RECORDED["policy_loss"], abs=1e-12)
    torch.testing.assert_close(leaf.grad, TOKENS["new_grad"], rtol=0, atol=1e-12)
    assert got.clipped_low > 0
    assert got.clipped_high > 0


def test_value_loss_is_trls() -> None:
    leaf = TOKENS["values"].clone().requires_grad_()
    got = value_loss(
        leaf,
        TOKENS["old_values"],
        TOKENS["returns"],
        torch.ones_like(leaf),
        token_count=COUNT,
        clip=RECORDED["value_clip"],
    )
    got.loss.backward()
    assert got.loss.item() == pytest.approx(RECORDED["value_loss"], abs=1e-12)
    assert got.clipped.item() == pytest.approx(RECORDED["value_clipped"], abs=1e-7)  # TRL counts in float32
    torch.testing.assert_close(leaf.grad, TOKENS["values_grad"], rtol=0, atol=1e-12)
