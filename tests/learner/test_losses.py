"""Losses against slow float64 loops written from the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from learner.losses import TokenScores, policy_loss, score_logits

CLIP_LOW, CLIP_HIGH, KL, ENTROPY, COUNT = 0.2, 0.3, 0.07, 0.01, 37


def slow_scores(row: list[float], target: int, temperature: float) -> tuple[float, float]:
    z = [x / temperature for x in row]
    top = max(z)
    total = math.fsum(math.exp(x - top) for x in z)
    logp = [x - top - math.log(total) for x in z]
    return logp[target], -math.fsum(math.exp(lp) * lp for lp in logp)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_scores(temperature: float) -> None:
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(0, 4, (20, 33)), rng.integers(0, 33, 20)
    got = score_logits(torch.tensor(logits, dtype=torch.float32), torch.tensor(targets), temperature)
    for i in range(20):
        logprob, entropy = slow_scores(logits[i].tolist(), targets[i], temperature)
        assert got.logprobs[i].item() == pytest.approx(logprob, abs=5e-6)
        assert got.entropy[i].item() == pytest.approx(entropy, abs=5e-6)


def slow_loss(new: float, old: float, ref: float, entropy: float, advantage: float) -> dict[str, float]:
    ratio = math.exp(new - old)
    clipped = min(max(ratio, 1 - CLIP_LOW), 1 + CLIP_HIGH)
    surrogate = -min(ratio * advantage, clipped * advantage)
    k3 = math.exp(ref - new) - (ref - new) - 1
    return {
        "loss": surrogate + KL * k3 - ENTROPY * entropy,
        "policy_loss": surrogate,
        "kl_ref": k3,
        "entropy": entropy,
        "clipped_low": float(advantage < 0 and ratio < 1 - CLIP_LOW),
        "clipped_high": float(advantage > 0 and ratio > 1 + CLIP_HIGH),
        "ratio": ratio,
        "approx_kl": ratio - 1 - (new - old),
        "logprob_diff": abs(new - old),
    }


def test_loss_terms_and_gradient() -> None:
    rng = np.random.default_rng(2)
    n = 60
    new, advantages, entropy = -rng.random(n) * 5, rng.normal(size=n), rng.random(n)
    old, ref = new + rng.normal(0, 0.4, n), new + rng.normal(0, 0.3, n)
    weights = (rng.random(n) < 0.8).astype(np.float64)
    t = {name: torch.tensor(v) for name, v in (("old", old), ("adv", advantages), ("w", weights), ("ref", ref))}
    leaf = torch.tensor(new, requires_grad=True)
    got = policy_loss(
        TokenScores(leaf, torch.tensor(entropy)),
        t["old"],
        t["adv"],
        t["w"],
        clip_low=CLIP_LOW,
        clip_high=CLIP_HIGH,
        token_count=COUNT,
        ref_logprobs=t["ref"],
        kl_coef=KL,
        entropy_coef=ENTROPY,
    )
    rows = [slow_loss(new[i], old[i], ref[i], entropy[i], advantages[i]) for i in range(n)]
    assert any(r["clipped_low"] for r in rows)
    assert any(r["clipped_high"] for r in rows)
    for name in rows[0]:
        expected = math.fsum(r[name] * w for r, w in zip(rows, weights, strict=True)) / COUNT
        assert getattr(got, name).item() == pytest.approx(expected, abs=1e-6), name
    deviations = [abs(r["ratio"] - 1) for r, w in zip(rows, weights, strict=True) if w]
    assert got.ratio_deviation_max.item() == pytest.approx(max(deviations), abs=1e-6)

    got.loss.backward()
    step = 1e-6
    for i in range(n):
        up, down = (slow_loss(new[i] + d, old[i], ref[i], entropy[i], advantages[i])["loss"] for d in (step, -step))
        assert leaf.grad[i].item() == pytest.approx(weights[i] * (up - down) / (2 * step) / COUNT, abs=1e-6)


def test_entropy_has_a_gradient_only_when_asked() -> None:
    logits = torch.randn(4, 7, requires_grad=True)
    targets = torch.arange(4)
    assert not score_logits(logits, targets, 1.0).entropy.requires_grad
    assert score_logits(logits, targets, 1.0, entropy_grad=True).entropy.requires_grad
