"""Settings of supervised fine-tuning: which demonstrations, how often, and at which learning rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from actors.settings import Settings
from learner.settings import LearnerSettings


class SftSettings(Settings):
    """What `router-r1 sft` learns, and how fast. Ranks, ZeRO stage and AdamW's other numbers come from `learner`."""

    demonstrations: tuple[Path, ...] = Field(
        (), description="JSONL files of demonstrations; see learner/demonstrations.py for the format."
    )
    epochs: int = Field(2, ge=1, description="Passes over the demonstrations.")
    demonstrations_per_step: int = Field(32, ge=1, description="Demonstrations per optimizer step.")
    heldout_share: float = Field(
        0.05, ge=0, lt=1, description="Share of the demonstrations that is only measured, not learnt."
    )
    lr: float = Field(1e-5, gt=0, description="Peak learning rate.")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="Share of the steps over which the rate rises.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="Shape after warm-up: stay at lr, or fall to 0 at the end."
    )

    @field_validator("demonstrations", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def steps_per_epoch(self, examples: int) -> int:
        """Number of optimizer steps in one pass over `examples` examples."""
        return math.ceil(examples / self.demonstrations_per_step)

    def learner_settings(self, learner: LearnerSettings, steps: int) -> LearnerSettings:
        """The learner's settings for `steps` supervised steps, with this rate and schedule; no reference, no critic."""
        rate = {
            "lr": self.lr,
            "warmup_steps": min(round(self.warmup_share * steps), steps - 1),
            "schedule": self.schedule,
            "total_steps": steps,
        }
        return LearnerSettings.model_validate(
            learner.model_dump()
            | {"optimizer": learner.optimizer.model_dump() | rate, "kl_coef": 0.0, "kl_target": None}
            | {"entropy_coef": 0.0, "estimator": "grpo", "critic": {}, "ppo_epochs": 1, "minibatches": 1}
        )
