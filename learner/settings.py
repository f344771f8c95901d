"""Settings of what learns: the ranks, the optimizer and the policy-gradient loss."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from actors.settings import Settings


class OptimizerSettings(Settings):
    """AdamW and its learning-rate schedule. Steps are optimizer steps, not batches."""

    type: Literal["adamw"] = Field("adamw", description="Optimizer; AdamW with decoupled weight decay.")
    lr: float = Field(1e-6, gt=0, description="Peak learning rate.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Decay of the first and second moments.")
    eps: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled decay, on every parameter.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which the rate rises linearly from 0 to `lr`.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Shape after warm-up: stay at `lr`, or fall to 0 at `total_steps`."
    )
    total_steps: int | None = Field(None, gt=0, description="Where `linear` and `cosine` reach 0.")

    @model_validator(mode="after")
    def _possible(self) -> OptimizerSettings:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={self.betas} must both lie in [0, 1); the usual pair is (0.9, 0.999)")
        if self.schedule != "constant" and self.total_steps is None:
            raise ValueError(
                f"schedule={self.schedule} with total_steps unset has no end; set total_steps or schedule=constant"
            )
        if self.total_steps is not None and self.warmup_steps >= self.total_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} leaves nothing of total_steps={self.total_steps}; "
                "set warmup_steps below total_steps"
            )
        return self

    def lr_factor(self, step: int) -> float:
        """Share of `lr` at optimizer step `step`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant" or self.total_steps is None:
            return 1.0
        done = min((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 1.0)
        return 1.0 - done if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


class LearnerSettings(Settings):
    """The learner gang and its loss."""

    ranks: int = Field(1, ge=1, description="Data-parallel DeepSpeed ranks; on cuda, one GPU each.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the ranks run.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Weights and activations; with bfloat16 the optimizer keeps float32 masters."
    )
    threads: int = Field(1, ge=1, description="Torch threads of a rank on CPU.")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        0, description="ZeRO: 0 replicates, 1 shards optimizer state, 2 also gradients, 3 also parameters."
    )
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="AdamW and its schedule.")
    max_grad_norm: float = Field(1.0, gt=0, description="Global gradient norm is clipped to this.")
    clip_low: float = Field(0.2, gt=0, lt=1, description="PPO clip: the ratio counts down to 1 - clip_low.")
    clip_high: float = Field(0.2, gt=0, description="PPO clip: the ratio counts up to 1 + clip_high.")
    kl_coef: float = Field(
        0.001,
        ge=0,
        description="Weight of the KL to the reference policy, by the estimator k3: exp(d) - d - 1 with "
        "d = log(reference / policy). At 0 no reference is loaded.",
    )
    entropy_coef: float = Field(0.0, ge=0, description="Weight of the entropy bonus.")
    normalize_std: bool = Field(True, description="Divide group advantages by the group's standard deviation.")
    ppo_epochs: int = Field(1, ge=1, description="Passes over a batch.")
    minibatches: int = Field(1, ge=1, description="Optimizer steps in one pass over a batch.")
    micro_batch_tokens: int = Field(
        2048, ge=2, description="Tokens of one forward pass, padding included; a longer trajectory goes alone."
    )
    logit_chunk_tokens: int = Field(
        1024, ge=1, description="Trained tokens whose full-vocabulary float32 logits stand in memory at a time."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations in the backward pass.")
    seed: int = Field(0, ge=0, description="Seeds torch and the split into minibatches.")
    start_timeout_s: float = Field(300, gt=0, description="Deadline for every rank to be ready.")
    step_timeout_s: float = Field(1800, gt=0, description="Deadline for one call to the ranks, saving included.")

    @model_validator(mode="after")
    def _possible(self) -> LearnerSettings:
        if self.dtype == "bfloat16" and self.zero_stage == 0:
            raise ValueError(
                "dtype=bfloat16 with zero_stage=0 would sum gradients in bfloat16; set zero_stage=1 "
                "(float32 sums and masters) or dtype=float32"
            )
        return self
