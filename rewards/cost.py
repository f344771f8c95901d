"""The cost reward: pays for a low price, by a fixed scale or by the rank within the group.

An episode's reward never depends on the episodes judged before it (invariant 8). Router-R1's own sliding window, which
does depend on them, is in `rewards.normaliser`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def cost_reward(cost_usd: float, scale_usd: float) -> float:
    """1 − √(cost / scale), clipped to [0, 1]: 1 for an episode that spent nothing, 0 for one that spent `scale_usd`.

    The shape is Router-R1's (section 3.2), which takes the scale from a sliding window of past episodes.

    Raises:
        ValueError: the cost is negative or not finite, or the scale is not positive.
    """
    if not math.isfinite(cost_usd) or cost_usd < 0:
        raise ValueError(f"cost_usd must be finite and not negative, got {cost_usd}; check the card's prices")
    if not scale_usd > 0:
        raise ValueError(f"cost_scale_usd must be positive, got {scale_usd}")
    return 1.0 - math.sqrt(min(1.0, cost_usd / scale_usd))


def rank_reward(cost_usd: float, group_usd: Sequence[float]) -> float:
    """An episode's rank by cost in its group: 1 for the cheapest, 0 for the dearest, 0.5 where all cost the same.

    Equal costs share the mean of their ranks. `group_usd` holds the costs of the whole group, `cost_usd` included.

    Raises:
        ValueError: a cost is negative or not finite, or `group_usd` does not contain `cost_usd`.
    """
    for cost in group_usd:
        if not math.isfinite(cost) or cost < 0:
            raise ValueError(f"cost_usd must be finite and not negative, got {cost}; check the card's prices")
    equal = sum(other == cost_usd for other in group_usd)
    if not equal:
        raise ValueError(f"cost_usd={cost_usd} is not among its group's costs {list(group_usd)}; give the whole group")
    if len(group_usd) == 1:
        return 0.5
    cheaper = sum(other < cost_usd for other in group_usd)
    return 1.0 - (cheaper + (equal - 1) / 2) / (len(group_usd) - 1)


def derived_cost_scale_usd(
    prices: Iterable[tuple[float, float]], prompt_tokens: int, completion_tokens: int, rounds: int
) -> float:
    """The most that an episode can cost, in USD: every round asks the dearest candidate at its token limits.

    `prices` holds (prompt, completion) per candidate in USD per million tokens; the token counts limit one call.

    Raises:
        ValueError: there is no price, a price is negative or not finite, a token count is negative, `rounds` is
            below 1, or every candidate is free.
    """
    table = list(prices)
    if not table:
        raise ValueError("prices is empty: a cost scale is derived from the candidates' prices; give at least one")
    if any(not math.isfinite(price) or price < 0 for pair in table for price in pair):
        raise ValueError(f"prices={table} must be finite and not negative; correct the cards' prices")
    if prompt_tokens < 0 or completion_tokens < 0 or rounds < 1:
        raise ValueError(
            f"prompt_tokens={prompt_tokens} and completion_tokens={completion_tokens} must not be negative, "
            f"rounds={rounds} must be at least 1; take them from the episode's limits"
        )
    scale = rounds * max(prompt_tokens * sent + completion_tokens * read for sent, read in table) / 1e6
    if scale == 0:
        raise ValueError(
            "cost_scale_usd can't be derived: no candidate costs anything within the token limits; set it to a number"
        )
    return scale
