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
    "grad_norm": "global gradient norm before clipping, mean over optimizer steps",
    "lr": "learning rate of the last optimizer step",
    "optimizer_steps": "optimizer steps taken on this batch",
    "tokens_trained": "sampled tokens of the batch",
    "tokens_total": "tokens of the batch, context included, trajectories with nothing to train left out",
    "padding_efficiency": "share of computed positions that are not padding",
    "tokens_per_s": "tokens_total * ppo_epochs over step_seconds, all ranks together",
    "groups_without_signal": "share of groups of one, or whose members all have the same reward",
    "step_seconds": "wall-clock time of the whole call, in seconds",
}

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


@dataclass(slots=True)
class RankReport:
    """One rank's part of a batch's metrics.

    `sums[k]` are this rank's contributions to metric `_MEANS[k]`'s mean, one optimizer step added to the other.
    """

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_MEANS, 0.0))
    ratio_max_deviation: float = 0.0
    logprob_diff_mean: float = 0.0
    logprob_diff_max: float = 0.0
    grad_norms: list[float] = field(default_factory=list)
    lr: float = 0.0
    kl_coef: float = 0.0
    real_tokens: int = 0
    padded_tokens: int = 0


def merge_reports(reports: Sequence[RankReport]) -> dict[str, float]:
    """The batch's metrics from every rank's part; those that only the gang knows are not among them."""
    steps = len(reports[0].grad_norms)
    metrics = {name: sum(r.sums[name] for r in reports) / steps for name in _MEANS}
    metrics["ratio_max_deviation"] = max(r.ratio_max_deviation for r in reports)
    metrics["logprob_diff_mean"] = sum(r.logprob_diff_mean for r in reports)
    metrics["logprob_diff_max"] = max(r.logprob_diff_max for r in reports)
    metrics["grad_norm"] = sum(reports[0].grad_norms) / steps
    metrics["lr"] = reports[0].lr
    metrics["kl_coef"] = reports[0].kl_coef
    metrics["optimizer_steps"] = float(steps)
    metrics["padding_efficiency"] = sum(r.real_tokens for r in reports) / sum(r.padded_tokens for r in reports)
    return metrics
