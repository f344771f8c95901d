"""The critic's loss compared with a slow loop, and its gradient with finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learner.losses.value_loss import value_loss

CLIP, COUNT = 0.3, 53


def slow(value: float, old: float, target: float, clip: float | None) -> tuple[float, bool]:
    error = (value - target) ** 2
    if clip is None:
        return error / 2, False
    held = (min(max(value, old - clip), old + clip) - target) ** 2
    return max(error, held) / 2, held > error


@pytest.mark.parametrize("clip", [CLIP, None])
def test_value_loss(clip: float | None) -> None:
    rng = np.random.default_rng(4)
    n = 40
    values, returns = rng.normal(size=n), rng.normal(size=n)
    old, weights = values + rng.normal(0, 0.5, n), (rng.random(n) < 0.8).astype(np.float64)
    leaf = torch.tensor(values, requires_grad=True)
    fixed = [torch.tensor(x) for x in (old, returns, weights)]
    got = value_loss(leaf, *fixed, token_count=COUNT, clip=clip)
    rows = [slow(*row, clip) for row in zip(values, old, returns, strict=True)]
    assert got.loss.item() == pytest.approx(np.dot([r[0] for r in rows], weights) / COUNT, abs=1e-12)
    assert got.clipped.item() == pytest.approx(np.dot([r[1] for r in rows], weights) / COUNT, abs=1e-12)
    assert (got.clipped.item() > 0) == (clip is not None)
    got.loss.backward()
    for i in range(n):
        up, down = (slow(values[i] + d, old[i], returns[i], clip)[0] for d in (1e-6, -1e-6))
        assert leaf.grad[i].item() == pytest.approx(weights[i] * (up - down) / 2e-6 / COUNT, abs=1e-8)
