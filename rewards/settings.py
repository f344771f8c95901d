"""Settings of the reward, as a plain dataclass: this room imports nothing outside the standard library."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from rewards.presets import Metric, Preset


def _about(default: Any, text: str) -> Any:
    """A field with its description where the command line finds it."""
    return field(default=default, metadata={"about": text})


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """Which preset judges, and its numbers."""

    preset: Preset = _about("default", "`default` pays for low cost where the answer is right; `paper` always.")
    alpha: float = _about(0.0, "Weight of the cost reward, in [0, 1]; 0 buys accuracy at any price.")
    metric: Metric = _about("em", "Outcome: exact match (`em`) or token F1 (`f1`).")
    cost_scale_usd: float = _about(0.01, "USD of an episode at which its cost reward is 0.")

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha} must lie in [0, 1]; 0 ignores cost, 1 pays for nothing else")
        if not (math.isfinite(self.cost_scale_usd) and self.cost_scale_usd > 0):
            raise ValueError(f"cost_scale_usd={self.cost_scale_usd} must be a positive number of US dollars")
