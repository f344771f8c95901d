"""The learner's metrics: their meaning, and how the ranks' parts are combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LEARNER_METRICS: dict[str, str] = {
    "loss": "policy loss + KL and entropy terms, aggregated by `aggregation`",
    "policy_loss": "the surrogate, negated, with importance weights; aggregated like the loss",
    "kl_ref": "estimate of KL(policy || reference), nats per trained token; 0 without a reference",
    "kl_coef": "weight of that KL in the batch's loss or rewards",
    "entropy": "entropy of the sampling distribution, nats per trained token",
    "clip_fraction_low": "share of trained tokens whose ratio was clipped at 1 - clip_low",
    "clip_fraction_high": "share of trained tokens whose ratio was clipped at 1 + clip_high, or by the dual clip",
    "ratio_mean": "policy probability / sampler probability, mean over trained tokens",
    "ratio_max_deviation": "max |ratio - 1| before the first optimizer step; above 1e-3 at staleness 0 there is a bug",
    "approx_kl": "k3 estimate of KL(sampler || policy), nats per trained token",
    "logprob_diff_mean": "mean |policy - sampler| log-probability before the first optimizer step, nats",
    "logprob_diff_max": "max |policy - sampler| log-probability before the first optimizer step, nats",
    "importance_mean": "importance weight against the sampler, mean over trained tokens; 1 without a correction",
    "importance_cut": "share of trained tokens whose importance weight was cut or masked",
    "effective_sample": "effective sample size as share of a step's trajectories (learner/losses/effective_sample.py)",
    "grad_norm": "global gradient norm before clipping, mean over optimizer steps",
    "lr": "learning rate of the last optimizer step",
    "optimizer_steps": "optimizer steps taken on this batch",
    "bad_steps": "1 if a reward, loss or gradient was not finite and the rest of the batch was skipped, else 0",
    "value_loss": "the critic's loss: half the squared error to the returns per trained token, with the clip",
    "value_clip_fraction": "share of trained tokens where the clip decided the value loss",
    "explained_variance": "share of the returns' variance that the critic predicted before it trained on the batch",
    "critic_grad_norm": "the critic's global gradient norm before clipping, mean over optimizer steps",
    "critic_lr": "the critic's learning rate in the last optimizer step",
    "peak_memory_gib": "largest peak memory of a rank: on GPU the allocator's in this batch, on CPU the process's ever",
    "mfu": "FLOP/s of the update / peak of all ranks, counted by learner/flops.py; only if the peak is known",
    "tokens_trained": "sampled tokens of the batch",
    "tokens_total": "tokens of the batch, context included, without trajectories that have nothing to train",
    "padding_efficiency": "share of computed positions that are not padding",
    "packing_efficiency": "how full micro-batches are: tokens / room of micro_batch_tokens each, over all ranks",
    "rank_balance": "mean tokens of a rank / most tokens of a rank, over the batch's optimizer steps",
    "tokens_per_s": "tokens_total * ppo_epochs / step_seconds, all ranks together",
    "groups_without_signal": "share of groups with one member or with equal rewards",
    "step_seconds": "wall-clock time of the whole call, in seconds",
}

KEEP_RATE = "keep_rate"
"""Share of judged groups kept by `learner.drop_groups_without_signal`; reported by the caller that drops the others."""

CRITIC_METRICS = ("value_loss", "value_clip_fraction", "explained_variance", "critic_grad_norm", "critic_lr")
"""Metrics that only a learner with a critic has."""

SFT_METRICS = ("loss", "grad_norm", "lr", "padding_efficiency", "peak_memory_gib")
"""Metrics of a supervised step; its `loss` is the mean negative log-likelihood."""

_MEANS = (
    "loss",
    "policy_loss",
    "kl_ref",
    "entropy",
    "clip_fraction_low",
    "clip_fraction_high",
    "ratio_mean",
    "approx_kl",
    "importance_mean",
    "importance_cut",
)
_CRITIC_MEANS = ("value_loss", "value_clip_fraction")


@dataclass(frozen=True, slots=True)
class BadStep:
    """An optimizer step that was not taken."""

    reason: str
    suspects: tuple[str, ...]  # labels of this rank's trajectories that may be the cause; may be empty


@dataclass(slots=True)
class RankReport:
    """One rank's part of a batch's metrics.

    `sums[k]` is this rank's contribution to the mean of metric `k`, summed over the optimizer steps taken.
    """

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*_MEANS, *_CRITIC_MEANS), 0.0))
    ratio_max_deviation: float = 0.0
    logprob_diff_mean: float = 0.0
    logprob_diff_max: float = 0.0
    grad_norms: list[float] = field(default_factory=list)
    effective_samples: list[float] = field(default_factory=list)
    lr: float = 0.0
    critic_grad_norms: list[float] = field(default_factory=list)
    critic_lr: float = 0.0
    kl_coef: float = 0.0
    bad: BadStep | None = None  # the step at which the batch was given up; equal on all ranks except for the suspects
    peak_memory_gib: float = 0.0
    real_tokens: int = 0
    padded_tokens: int = 0


def merge_reports(reports: Sequence[RankReport]) -> dict[str, float]:
    """The batch's metrics from every rank's part, without the metrics that only the gang knows.

    If no step was taken there are no means, so only the three metrics in `always` are returned.
    """
    steps = len(reports[0].grad_norms)
    always = {
        "optimizer_steps": float(steps),
        "bad_steps": float(reports[0].bad is not None),
        "peak_memory_gib": max(r.peak_memory_gib for r in reports),
    }
    if steps == 0:
        return always
    with_critic = len(reports[0].critic_grad_norms)
    metrics = {name: sum(r.sums[name] for r in reports) / steps for name in _MEANS}
    if with_critic:
        metrics |= {name: sum(r.sums[name] for r in reports) / with_critic for name in _CRITIC_MEANS}
        metrics["critic_grad_norm"] = sum(reports[0].critic_grad_norms) / with_critic
        metrics["critic_lr"] = reports[0].critic_lr
    metrics["ratio_max_deviation"] = max(r.ratio_max_deviation for r in reports)
    metrics["logprob_diff_mean"] = sum(r.logprob_diff_mean for r in reports)
    metrics["logprob_diff_max"] = max(r.logprob_diff_max for r in reports)
    metrics["grad_norm"] = sum(reports[0].grad_norms) / steps
    metrics["lr"] = reports[0].lr
    metrics["effective_sample"] = sum(reports[0].effective_samples[:steps]) / steps
    metrics["kl_coef"] = reports[0].kl_coef
    metrics["padding_efficiency"] = sum(r.real_tokens for r in reports) / sum(r.padded_tokens for r in reports)
    return metrics | always
