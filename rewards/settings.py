"""Settings of the reward, as a plain dataclass: this room imports only the standard library, so no pydantic."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from rewards.budget import BudgetRule

Preset = Literal["default", "paper", "reference"]
Metric = Literal["em", "f1"]


def _about(default: Any, text: str) -> Any:
    """A field whose description lies in its metadata, where the command line reads it."""
    return field(default=default, metadata={"about": text})


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """The reward preset and its numbers.

    Raises:
        ValueError: a number lies outside of its range, or a published preset is given one of our additions.
    """

    preset: Preset = _about(
        "default",
        "`default` pays for low cost only where the answer is right; `paper` (Router-R1's text) always pays; "
        "`reference` is Router-R1's published code, quirks included.",
    )
    alpha: float = _about(0.0, "Weight of the cost reward, in [0, 1]; 0 buys accuracy at any price.")
    metric: Metric = _about("em", "Outcome: exact match (`em`) or token F1 (`f1`).")
    cost_by: Literal["scale", "rank"] = _about(
        "scale", "Cost reward of `default`: by `cost_scale_usd`, or by `rank` within the group."
    )
    cost_scale_usd: float | None = _about(
        0.01, "Cost of an episode, in USD, at which its cost reward is 0; none derives it from the cards' prices."
    )
    length_coef: float = _about(0.0, "Penalty per call of a well-formed episode (MTRouter).")
    switch_coef: float = _about(0.0, "Penalty per change of model between calls (MTRouter).")
    budget: BudgetRule = _about(
        "none",
        "With a budget in the prompt: `hard` pays nothing beyond it, `soft` pays less and less up to twice the budget "
        "(CoRL).",
    )
    budget_weight: float = _about(
        1.0,
        "Share of the outcome that depends on keeping the budget, in (0, 1]; 1 pays nothing beyond the budget.",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha} must lie in [0, 1]; 0 ignores cost, 1 pays for low cost alone")
        scale = self.cost_scale_usd
        if scale is not None and not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"cost_scale_usd={scale} must be a positive number of US dollars, or none to derive it")
        if not 0 < self.budget_weight <= 1:
            raise ValueError(
                f"budget_weight={self.budget_weight} must lie in (0, 1]; 1 pays nothing beyond the budget, and "
                "budget=none ignores budgets"
            )
        for name in ("length_coef", "switch_coef"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value} must be a finite number, not negative; 0 switches it off")
        if self.preset != "default":
            self._refuse_additions()

    def _refuse_additions(self) -> None:
        """The published presets stay as published: refuse our additions to them."""
        published = {"cost_by": "scale", "length_coef": 0.0, "switch_coef": 0.0, "budget": "none", "budget_weight": 1.0}
        for name, off in published.items():
            value = getattr(self, name)
            if value != off:
                raise ValueError(
                    f"{name}={value} with preset={self.preset}: the published preset has no such setting; set "
                    f"{name}={off}, or preset=default"
                )
