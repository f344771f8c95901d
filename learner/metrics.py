"""The learner's numbers: what each means, and how the ranks' parts add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LEARNER_METRICS: dict[str, str] = {
    "loss": "policy loss + KL and entropy terms, aggregated as `aggregation` names it",
    "policy_loss": "the surrogate, negated, with importance weights; aggregated as the loss is",
    "kl_ref": "estimate of KL(policy || reference), nats per trained token; 0 without a reference",
    "kl_coef": "weight of that KL in the batch's loss or rewards",
    "entropy": "entropy of the sampling distribution, nats per trained token",
    "clip_fraction_low": "share of trained tokens whose ratio was clipped at 1 - clip_low",
    "clip_fraction_high": "share of trained tokens whose ratio was clipped at 1 + clip_high, or by the dual clip",
    "ratio_mean": "policy probability over the sampler's, mean over trained tokens",
    "ratio_max_deviation": "max |ratio - 1| before the first optimizer step; beyond 1e-3 at staleness 0 is a bug",
    "approx_kl": "k3 estimate of KL(sampler || policy), nats per trained token",
    "logprob_diff_mean": "mean |policy - sampler| log-probability before the first optimizer step, nats",
    "logprob_diff_max": "max |policy - sampler| log-probability before the first optimizer step, nats",
    "importance_mean": "importance weight against the sampler, mean over trained tokens; 1 without a correction",
    "importance_cut": "share of trained tokens whose importance weight was cut or masked",
    "effective_sample": "share of a step's trajectories that the sampler's staleness leaves to learn from",
    "grad_norm": "global gradient norm before clipping, mean over optimizer steps",
    "lr": "learning rate of the last optimizer step",
    "optimizer_steps": "optimizer steps taken on this batch",
    "bad_steps": "1 where a reward, loss or gradient was not finite and the rest of the batch was skipped, else 0",
    "value_loss": "the critic's: half the squared error to the returns per trained token, with the clip",
    "value_clip_fraction": "share of trained tokens whose value left the clip",
    "explained_variance": "share of the returns' variance that the critic foresaw before the batch was trained on",
    "critic_grad_norm": "the critic's global gradient norm before clipping, mean over optimizer steps",
    "critic_lr": "the critic's learning rate in the last optimizer step",
    "peak_memory_gib": "most memory of a rank: its GPU's allocator during the batch, or its process's ever on CPU",
    "mfu": "FLOP/s of the update over the ranks' peak, as learner/flops.py counts; where the peak is known",
    "tokens_trained": "sampled tokens of the batch",
    "tokens_total": "tokens of the batch, context included, trajectories with nothing to train left out",
    "padding_efficiency": "share of computed positions that are not padding",
    "packing_efficiency": "share of micro_batch_tokens that micro-batches were filled to, over all of all ranks",
    "rank_balance": "mean over the ranks' tokens of an optimizer step over the most that one of them had",
    "tokens_per_s": "tokens_total * ppo_epochs over step_seconds, all ranks together",
    "groups_without_signal": "share of groups of one, or whose members all have the same reward",
    "step_seconds": "wall-clock time of the whole call, in seconds",
}

KEEP_RATE = "keep_rate"
"""Of `learner.drop_groups_without_signal`, whoever drops them reports it: share of the judged groups that were kept."""

CRITIC_METRICS = ("value_loss", "value_clip_fraction", "explained_variance", "critic_grad_norm", "critic_lr")
"""Those that only a learner with a critic has."""

SFT_METRICS = ("loss", "grad_norm", "lr", "padding_efficiency", "peak_memory_gib")
"""Those of a report that say something of a supervised step; its loss is the mean negative log-likelihood."""

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
    suspects: tuple[str, ...]  # labels of this rank's trajectories among which the cause is; none if on another rank


@dataclass(slots=True)
class RankReport:
    """One rank's part of a batch's metrics.

    `sums[k]` are this rank's contributions to the mean of metric `k`, one optimizer step that was taken added to the
    other.
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
    bad: BadStep | None = None  # the step at which the batch was left, the same on all ranks but for the suspects
    peak_memory_gib: float = 0.0
    real_tokens: int = 0
    padded_tokens: int = 0


def merge_reports(reports: Sequence[RankReport]) -> dict[str, float]:
    """The batch's metrics from every rank's part; those that only the gang knows are not among them.

    Where no step was taken there is nothing to take a mean of, and only the last three are known.
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
