"""The cost reward: 1 for an episode that spent nothing, 0 for one that spent the scale or more."""

from __future__ import annotations

import math


def cost_reward(cost_usd: float, scale_usd: float) -> float:
    """1 − √(cost / scale), clipped to [0, 1].

    Router-R1 (section 3.2) takes the square root and normalises it over a sliding window of past episodes.
    Here the scale is fixed by the recipe, so that a reward does not depend on what came before (invariant 8).

    Raises:
        ValueError: the cost is negative or not finite, or the scale is not positive.
    """
    if not math.isfinite(cost_usd) or cost_usd < 0:
        raise ValueError(f"cost_usd must be finite and not negative, got {cost_usd}; check the card's prices")
    if not scale_usd > 0:
        raise ValueError(f"cost_scale_usd must be positive, got {scale_usd}")
    return 1.0 - math.sqrt(min(1.0, cost_usd / scale_usd))
