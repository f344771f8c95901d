"""Settings of the reward, as a plain dataclass: this room imports nothing outside the standard library."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rewards.presets import Metric, Preset


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """Which preset judges, and its numbers."""

    preset: Preset = "default"  # `default` pays for low cost only where the answer is right; `paper` always
    alpha: float = 0.0  # weight of the cost reward, in [0, 1]: 0 buys accuracy at any price
    metric: Metric = "em"  # outcome: exact match or token F1
    cost_scale_usd: float = 0.01  # USD an episode may spend before its cost reward is 0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha} must lie in [0, 1]; 0 ignores cost, 1 pays for nothing else")
        if not (math.isfinite(self.cost_scale_usd) and self.cost_scale_usd > 0):
            raise ValueError(f"cost_scale_usd={self.cost_scale_usd} must be a positive number of US dollars")
