"""The budget: how much of the outcome is paid to an episode that was told what it may spend.

One policy is to serve many budgets, so the budget stands in the prompt and the reward depends on it: the idea of CoRL
(arXiv 2511.02755), which trains one controller under several budget levels, and BaRP (arXiv 2510.07429), which gives a
policy the preference that it is judged by. The two rules are our own.
"""

from __future__ import annotations

import math
from typing import Literal

BudgetRule = Literal["none", "hard", "soft"]


def budget_share(cost_usd: float, budget_usd: float | None, rule: BudgetRule) -> float:
    """The share of the outcome that is paid, in [0, 1]; 1 where there is no budget or `none` is asked for.

    `hard`: 1 within the budget, else 0. `soft`: 1 within the budget, falling linearly to 0 at twice the budget.

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
