"""Settings of the learner: the ranks, the optimizer and the policy-gradient loss."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from actors.settings import Settings

ImportanceCorrection = Literal["clip", "truncate", "mask"]
KlEstimator = Literal["k1", "k2", "k3"]
Aggregation = Literal["token_mean", "sequence_mean", "sequence_sum_token_norm"]

_DEEPSPEED_OWNED = {
    "optimizer": "learner.optimizer",
    "scheduler": "learner.optimizer.schedule",
    "gradient_clipping": "learner.max_grad_norm",
    "train_batch_size": "learner.minibatches",
    "train_micro_batch_size_per_gpu": "learner.micro_batch_tokens",
    "gradient_accumulation_steps": "learner.micro_batch_tokens",
    "fp16": "learner.dtype",
    "bf16": "learner.dtype",
    "bfloat16": "learner.dtype",
    "amp": "learner.dtype",
    "data_types": "learner.dtype",
    "torch_autocast": "learner.dtype",
    "communication_data_type": "learner.dtype",
    "managed_gradient_accumulation": "learner.micro_batch_tokens",
    "zero_optimization.stage": "learner.zero_stage",
    "zero_optimization.offload_optimizer": "learner.offload_optimizer",
    "zero_optimization.cpu_offload": "learner.offload_optimizer",
    "zero_optimization.compute_grad_norm": "learner.max_grad_norm",
    "zero_force_ds_cpu_optimizer": "learner.offload_optimizer",
}
"""DeepSpeed's options that one of our settings determines, and that setting."""


def check_deepspeed_options(options: dict[str, Any]) -> None:
    """Refuse DeepSpeed options that another setting determines.

    Raises:
        ValueError: there is such an option, or `zero_optimization` is no mapping.
    """
    zero = options.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ValueError(f"deepspeed.zero_optimization={zero!r} must be a mapping of options, such as {{stage: 2}}")
    named = {**options, **{f"zero_optimization.{name}": value for name, value in zero.items()}}
    for name, value in named.items():
        if name in _DEEPSPEED_OWNED:
            raise ValueError(
                f"deepspeed.{name}={value!r} would contradict {_DEEPSPEED_OWNED[name]}; leave it out and set "
                f"{_DEEPSPEED_OWNED[name]} instead"
            )


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
                f"warmup_steps={self.warmup_steps} leaves no step of total_steps={self.total_steps} after the warm-up; "
                "set warmup_steps below total_steps"
            )
        return self

    def lr_factor(self, step: int) -> float:
        """Factor on `lr` at optimizer step `step`, counted from 0; in [0, 1]."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant" or self.total_steps is None:
            return 1.0
        done = min((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 1.0)
        return 1.0 - done if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


class CriticSettings(Settings):
    """The critic of estimator=gae: its kind, its training, and the numbers of GAE."""

    kind: Literal["none", "head", "model"] = Field(
        "none",
        description="head: a linear value head that reads the policy's last hidden states and sends no gradient into "
        "them. model: a separate model with a value head, started from the policy's checkpoint.",
    )
    optimizer: OptimizerSettings = Field(
        OptimizerSettings(lr=1e-5), description="The critic's AdamW; its rate is usually ten times the policy's."
    )
    clip: float | None = Field(
        0.5,
        gt=0,
        description="How far a value may move from the value that the advantages used; no bound if unset.",
    )
    gamma: float = Field(1.0, ge=0, le=1, description="Discount per sampled token.")
    lam: float = Field(1.0, ge=0, le=1, description="GAE's lambda: 0 trusts the critic, 1 the rewards.")


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2022, arXiv 2106.09685); with them the rest of the policy is frozen."""

    rank: int = Field(0, ge=0, description="Rank of the adapters; 0 trains the whole model instead.")
    alpha: int = Field(32, gt=0, description="An adapter's output is multiplied by alpha / rank.")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="Names of the modules that get adapters; all-linear: every linear layer but the output head.",
    )


class LearnerSettings(Settings):
    """The learner gang and its loss."""

    ranks: int = Field(1, ge=1, description="Data-parallel DeepSpeed ranks; on cuda, one GPU each.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the ranks run.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Type of weights and activations; with bfloat16 the optimizer keeps float32 masters."
    )
    threads: int = Field(1, ge=1, description="Torch threads of a rank on CPU.")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        0, description="ZeRO: 0 replicates, 1 shards optimizer state, 2 also gradients, 3 also parameters."
    )
    offload_optimizer: bool = Field(False, description="Keep the optimizer's state in CPU memory; cuda only.")
    offload_reference: bool = Field(
        False, description="Keep the reference policy in CPU memory between batches; cuda only."
    )
    deepspeed: dict[str, Any] = Field(
        {},
        description="Other DeepSpeed options, under DeepSpeed's names; an option that a setting here determines is "
        "refused.",
    )
    lora: LoraSettings = Field(LoraSettings(), description="Low-rank adapters.")
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="AdamW and its schedule.")
    max_grad_norm: float = Field(1.0, gt=0, description="Global gradient norm is clipped to this.")
    loss: Literal["ppo", "gspo", "cispo"] = Field(
        "ppo",
        description="Surrogate (learner/losses/surrogates.py). The default clips suit ppo; gspo's ratio stays near 1 "
        "(its paper clips at 3e-4 and 4e-4), and cispo's usual clip_low is 1.",
    )
    clip_low: float = Field(
        0.2, gt=0, le=1, description="The ratio is clipped below at 1 - clip_low; 1 means no lower bound."
    )
    clip_high: float = Field(0.2, gt=0, description="The ratio is clipped above at 1 + clip_high.")
    dual_clip: float | None = Field(
        None, gt=1, description="With ppo: at negative advantages, the part of a ratio above this adds no loss."
    )
    aggregation: Aggregation = Field(
        "token_mean", description="How the losses of tokens are combined; see learner/losses/aggregation.py."
    )
    aggregation_tokens: int | None = Field(
        None,
        ge=1,
        description="The constant of aggregation=sequence_sum_token_norm; usually the length limit of a response.",
    )
    kl_coef: float = Field(
        0.001, ge=0, description="Weight of the KL to the reference policy. At 0 no reference is loaded."
    )
    kl_estimator: KlEstimator = Field(
        "k3",
        description="Estimator of that KL; see learner/losses/kl.py. k1 works only with kl_in=reward: as a term of the "
        "loss its gradient is 0 in expectation, whatever the reference.",
    )
    kl_in: Literal["loss", "reward"] = Field(
        "loss",
        description="Where the KL counts: as a term of the loss, or subtracted from the reward before advantages are "
        "estimated, with its value at the start of the batch.",
    )
    kl_target: float | None = Field(
        None,
        gt=0,
        description="Target of the KL, in nats per trained token: kl_coef is adapted towards it after every batch. "
        "If unset, kl_coef is fixed.",
    )
    importance: Literal["auto", "off"] | ImportanceCorrection = Field(
        "auto",
        description="Correction for the difference between the sampling engine's log-probabilities and the learner's, "
        "see learner/losses/importance.py. auto means off at staleness 0; above that, clip for ppo and else truncate.",
    )
    importance_cap: float = Field(
        2.0,
        gt=1,
        description="Largest importance weight; with mask, its inverse is the smallest. With clip it serves as dual "
        "clip if dual_clip is unset.",
    )
    lr_by_staleness: bool = Field(
        True,
        description="Divide the policy's learning rate by the mean staleness of a batch's sampled tokens, in versions, "
        "if that is above 1 (Zhang et al. 2016, arXiv 1511.05950).",
    )
    entropy_coef: float = Field(0.0, ge=0, description="Weight of the entropy bonus.")
    estimator: Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "gae"] = Field(
        "grpo",
        description="How advantages are computed from rewards; see learner/losses/advantages.py, and "
        "learner/losses/gae.py for gae.",
    )
    critic: CriticSettings = Field(CriticSettings(), description="The critic of estimator=gae.")
    advantages_by: Literal["total", "components"] = Field(
        "total",
        description="Compare trajectories by their total reward, or by each component; see "
        "learner/losses/component_advantages.py.",
    )
    component_weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        {},
        description="With advantages_by=components: weights of reward components, by default 1. Only these weights set "
        "the balance of the components; rewards.alpha does not.",
    )
    drop_groups_without_signal: bool = Field(
        False,
        description="Leave out groups whose members all have the same reward, and sample other groups in their place, "
        "as DAPO does (arXiv 2503.14476, section 3.2).",
    )
    ppo_epochs: int = Field(1, ge=1, description="Passes over a batch.")
    minibatches: int = Field(1, ge=1, description="Optimizer steps in one pass over a batch.")
    micro_batch_tokens: int = Field(
        2048,
        ge=2,
        description="Largest number of tokens packed into one forward pass; a longer trajectory gets its own.",
    )
    logit_chunk_tokens: int = Field(
        1024,
        ge=1,
        description="Largest number of trained tokens whose full-vocabulary logits are in memory at a time.",
    )
    logit_chunk_mib: int = Field(
        64,
        ge=1,
        description="Most MiB that one copy of the float32 logits in memory may take; there are a few copies.",
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations in the backward pass.")
    max_bad_steps: int = Field(
        3,
        ge=1,
        description="The run ends after this many batches in a row with a reward, loss or gradient that is not finite.",
    )
    max_restarts: int = Field(
        2, ge=0, description="How often the gang may restart from its newest state after it has lost a rank."
    )
    peak_tflops: float | None = Field(
        None,
        gt=0,
        description="Peak of one rank in 1e12 FLOP/s, for the metric mfu; if unset, the value in learner/flops.py.",
    )
    seed: int = Field(0, ge=0, description="Seeds torch and the split into minibatches.")
    sync_bucket_mib: int = Field(
        64, ge=1, description="MiB of weights that are gathered and sent to the engines at a time."
    )
    start_timeout_s: float = Field(300, gt=0, description="Seconds within which all ranks must be ready.")
    step_timeout_s: float = Field(
        1800, gt=0, description="Seconds within which the ranks must finish one call, such as a step or saving."
    )

    @model_validator(mode="after")
    def _possible(self) -> LearnerSettings:
        if self.dtype == "bfloat16" and self.zero_stage == 0:
            raise ValueError(
                "dtype=bfloat16 with zero_stage=0 would sum gradients in bfloat16; set zero_stage=1 "
                "(float32 sums and masters) or dtype=float32"
            )
        self._check_loss()
        self._check_memory()
        check_deepspeed_options(self.deepspeed)
        if self.estimator == "gae" and self.critic.kind == "none":
            raise ValueError(
                "estimator=gae with critic.kind=none: gae needs a critic's values; set critic.kind=head or model, or "
                "estimator=grpo, dr_grpo, rloo, reinforce_pp or reinforce_pp_baseline"
            )
        if self.estimator != "gae" and self.critic.kind != "none":
            raise ValueError(
                f"critic.kind={self.critic.kind} with estimator={self.estimator}: only gae uses the critic's values; "
                "set estimator=gae or critic.kind=none"
            )
        if self.advantages_by == "components" and self.estimator != "grpo":
            raise ValueError(
                f"advantages_by=components with estimator={self.estimator}: components are normalised within their "
                "groups, as in grpo; set estimator=grpo or advantages_by=total"
            )
        if self.drop_groups_without_signal and not self.needs_groups:
            raise ValueError(
                f"drop_groups_without_signal=true with estimator={self.estimator}: this estimator does not compare "
                "within groups, so every group has signal; set drop_groups_without_signal=false or estimator=grpo, "
                "dr_grpo, rloo or reinforce_pp_baseline"
            )
        if self.advantages_by == "total" and self.component_weights:
            raise ValueError(
                f"component_weights={self.component_weights} have no effect with advantages_by=total; "
                "set advantages_by=components"
            )
        return self

    def _check_loss(self) -> None:
        if self.dual_clip is not None and self.loss != "ppo":
            raise ValueError(f"dual_clip={self.dual_clip} belongs to loss=ppo, not {self.loss}; unset dual_clip")
        if (self.aggregation_tokens is None) == (self.aggregation == "sequence_sum_token_norm"):
            raise ValueError(
                f"aggregation_tokens={self.aggregation_tokens} with aggregation={self.aggregation}: only "
                "sequence_sum_token_norm uses aggregation_tokens, and needs it; set both or neither"
            )
        if self.kl_coef > 0 and self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                "kl_estimator=k1 with kl_in=loss has a gradient of 0 in expectation, whatever the reference; "
                "set kl_estimator=k2 or k3, or kl_in=reward"
            )
        if self.kl_in == "reward" and self.advantages_by == "components":
            raise ValueError(
                "kl_in=reward with advantages_by=components: the KL is subtracted from the total reward, which is not "
                "used then; set kl_in=loss or advantages_by=total"
            )
        if self.kl_coef == 0 and self.kl_target is not None:
            raise ValueError(
                f"kl_target={self.kl_target} with kl_coef=0 has no KL to adapt; set kl_coef, or unset kl_target"
            )

    def _check_memory(self) -> None:
        for name in ("offload_optimizer", "offload_reference"):
            if getattr(self, name) and self.device == "cpu":
                raise ValueError(f"{name}=true with device=cpu has no effect; set {name}=false or device=cuda")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError(
                "offload_optimizer=true with zero_stage=0: only a sharded optimizer can be offloaded; set zero_stage=1 "
                "or above, even with one rank"
            )

    def logit_chunk(self, vocabulary: int) -> int:
        """Number of tokens whose logits over a vocabulary of this size may be in memory at a time; at least 1."""
        return max(1, min(self.logit_chunk_tokens, self.logit_chunk_mib * 2**20 // (4 * vocabulary)))

    @property
    def needs_groups(self) -> bool:
        """Whether the estimator compares the members of a group; if so, a group with one member has no signal."""
        return self.estimator not in ("gae", "reinforce_pp")

    @property
    def fewest_in_group(self) -> int:
        """Members that a group must have left, void ones aside, to be learnt from."""
        return 2 if self.needs_groups else 1

    @property
    def scores_first(self) -> bool:
        """Whether a batch is scored before its first optimizer step.

        Importance weights need no scoring if the batch takes only one optimizer step, as the step itself computes the
        same log-probabilities.
        """
        corrected = self.importance in ("truncate", "mask") and self.ppo_epochs * self.minibatches > 1
        return corrected or self.estimator == "gae" or (self.kl_in == "reward" and self.kl_coef > 0)

    def for_staleness(self, max_staleness: int) -> LearnerSettings:
        """These settings with `importance=auto` resolved for batches that are up to `max_staleness` versions old.

        Raises:
            ValueError: `max_staleness` is above 0, and the importance weights are off or have no bound.
        """
        if self.importance == "auto":
            stale = "clip" if self.loss == "ppo" else "truncate"
            decided = self.model_copy(update={"importance": stale if max_staleness > 0 else "off"})
            return decided.for_staleness(max_staleness)
        if max_staleness > 0 and self.importance == "off":
            raise ValueError(
                f"importance=off with max_staleness={max_staleness} would treat older policies' samples as the current "
                "policy's; set importance=clip, truncate or mask, or max_staleness=0"
            )
        if max_staleness > 0 and math.isinf(self.importance_cap):
            raise ValueError(
                f"importance_cap={self.importance_cap} with max_staleness={max_staleness} leaves importance weights "
                "without a bound; set importance_cap, e.g. 2, or max_staleness=0"
            )
        return self
