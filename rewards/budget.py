"""The budget: which share of the outcome an episode earns when its prompt names a spending limit.

One policy should serve many budgets, so the prompt states the budget and the reward depends on it. The idea is from
CoRL (arXiv 2511.02755), which trains one controller under several budget levels, and from BaRP (arXiv 2510.07429),
which tells the policy the preference that it is judged by. The rules `hard` and `soft` are our own.
"""

from __future__ import annotations

import math
from typing import Literal

BudgetRule = Literal["none", "hard", "soft"]


def budget_share(cost_usd: float, budget_usd: float | None, rule: BudgetRule) -> float:
    """The share of the outcome that is paid, in [0, 1].

    `none`, or an episode without a budget: 1. `hard`: 1 within the budget, else 0. `soft`: 1 within the budget, then
    falling linearly to 0 at twice the budget.

    Raises:
        ValueError: the budget is negative or not finite.
    """
    if budget_usd is None or rule == "none":
        return 1.0
    if not math.isfinite(budget_usd) or budget_usd < 0:
        raise ValueError(f"budget_usd={budget_usd} must be finite and not negative; correct the episode's budget")
    if cost_usd <= budget_usd:
        return 1.0
    if rule == "hard" or budget_usd == 0:
        return 0.0
    return max(0.0, 2.0 - cost_usd / budget_usd)
