"""The metrics of a run: each declared once, with the name practitioners expect, its unit and its meaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from learner.metrics import CRITIC_METRICS


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a step. A key that ends in `/*` stands for a family, such as one number per expert."""

    key: str
    unit: str
    description: str


_DECLARED = (
    Metric("reward/mean", "", "mean total reward of the batch"),
    Metric("reward/std", "", "standard deviation of the total reward over the batch"),
    Metric("reward/format", "", "mean format reward: 0, or -1 where the form is wrong"),
    Metric("reward/outcome", "share", "mean of the metric trained on"),
    Metric("reward/cost", "share", "mean cost reward; 1 is free"),
    Metric("reward/component/*", "", "mean of one addend of the total reward"),
    Metric("train/em", "share", "exact match of the sampled batch"),
    Metric("train/f1", "share", "token F1 of the sampled batch"),
    Metric("eval/em", "share", "exact match on held-out questions"),
    Metric("eval/f1", "share", "token F1 on held-out questions"),
    Metric("eval/cost_usd_per_1k_questions", "USD", "candidates' price of 1,000 held-out questions"),
    Metric("eval/calls_per_question", "calls", "routes per held-out question"),
    Metric("eval/void_share", "share", "held-out episodes voided by infrastructure; no other number includes them"),
    Metric("eval/version", "versions", "version of the policy that the evaluation began with"),
    Metric(
        "eval/newest_version", "versions", "newest version that sampled a token of it, as training goes on meanwhile"
    ),
    Metric("eval/call_share/*", "share", "an expert's share of the calls, held-out questions"),
    Metric("cost/usd_per_1k_questions", "USD", "candidates' price of 1,000 episodes of the batch"),
    Metric("cost/usd_total", "USD", "spent on candidates since the run began"),
    Metric("cost/usd/*", "USD", "spent on one candidate since the run began"),
    Metric("pool/requests", "requests", "HTTP requests to candidates since the run began, retries and hedges included"),
    Metric("pool/hedges", "requests", "second requests beside slow ones, since the run began"),
    Metric("pool/ledger_hits", "calls", "calls that the ledger answered, since the run began"),
    Metric("pool/joined", "calls", "calls that an identical one in flight answered, since the run began"),
    Metric("pool/over_budget", "calls", "calls refused for a cap, since the run began"),
    Metric("pool/breakers_open", "endpoints", "endpoints that are down now"),
    Metric("pool/limit/*", "calls", "calls that may be under way at an endpoint now"),
    Metric("rollout/calls_per_question", "calls", "routes per episode"),
    Metric("rollout/call_latency_s", "s", "mean latency of a call"),
    Metric("rollout/call_share/*", "share", "an expert's share of the batch's calls"),
    Metric("rollout/call_status/*", "share", "share of the calls that ended with this status"),
    Metric("rollout/stop_reason/*", "share", "share of the episodes that ended for this reason"),
    Metric("rollout/void_share", "share", "episodes voided by infrastructure: neither rewarded nor trained on"),
    Metric("rollout/response_tokens", "tokens", "tokens sampled per episode"),
    Metric("rollout/episode_tokens", "tokens", "tokens per episode, prompt and replies included"),
    Metric("rollout/tokens_per_s", "tokens/s", "tokens sampled per second of rollout, all workers together"),
    Metric("rollout/episode_s", "s", "mean wall-clock time of an episode"),
    Metric("rollout/staleness", "versions", "policy versions by which the batch's oldest token lags"),
    Metric("rollout/staleness_mean", "versions", "policy versions by which the batch's tokens lag, mean"),
    Metric("rollout/stale_groups", "groups", "groups dropped before learning: too old for run.max_staleness"),
    Metric("rollout/generating", "sequences", "sequences that an engine generates at a time, mean over the step"),
    Metric("rollout/engine_fill", "share", "of engine.max_num_seqs: the sequences that an engine generates at a time"),
    Metric(
        "rollout/engine_target",
        "sequences",
        "sequences that an engine may generate at a time: engine.max_num_seqs, or fewer if its memory holds "
        "no more; the least over the engines",
    ),
    Metric("idle/engines", "share", "of the step with nothing to generate, mean over the engines"),
    Metric("idle/learner", "share", "of the step in which the learner does not learn"),
    Metric("idle/callers", "share", "of the step with no call under way"),
    Metric("rollout/worker_restarts", "workers", "rollout workers replaced since the run began or was resumed"),
    Metric("policy/version", "versions", "version of the policy after the step"),
    Metric("policy/entropy", "nats", "entropy of the sampling distribution per trained token"),
    Metric("policy/clip_fraction", "share", "trained tokens clipped, either side"),
    Metric("policy/clip_fraction_low", "share", "trained tokens clipped at 1 - clip_low"),
    Metric("policy/clip_fraction_high", "share", "trained tokens clipped at 1 + clip_high"),
    Metric("policy/kl_ref", "nats", "estimate of KL(policy || reference) per trained token"),
    Metric("policy/kl_coef", "", "weight of the KL to the reference"),
    Metric("policy/importance_mean", "", "mean importance weight against the sampler"),
    Metric("policy/importance_cut", "share", "trained tokens whose importance weight was cut or masked"),
    Metric("policy/effective_sample", "share", "effective sample size over the trajectories of a step"),
    Metric("policy/approx_kl", "nats", "k3 estimate of KL(sampler || policy) per trained token"),
    Metric("policy/ratio_mean", "", "mean policy probability over the sampler's"),
    Metric("policy/ratio_max_deviation", "", "max |ratio - 1| before the first optimizer step"),
    Metric("policy/logprob_diff_mean", "nats", "mean |policy - sampler| log-probability before the first step"),
    Metric("policy/logprob_diff_max", "nats", "max |policy - sampler| log-probability before the first step"),
    Metric("sft/loss", "nats", "mean negative log-likelihood of the step's policy tokens, before the step"),
    Metric("sft/heldout_loss", "nats", "the same on the held-out demonstrations"),
    Metric("sft/epoch", "epochs", "passes over the demonstrations, the one under way included"),
    Metric("sync/probe_max_diff", "nats", "max |engine - learner| log-probability on the probe after the sync"),
    Metric("critic/value_loss", "", "half the squared error to the returns per trained token, with the clip"),
    Metric("critic/value_clip_fraction", "share", "trained tokens whose value left the clip"),
    Metric("critic/explained_variance", "share", "share of the returns' variance that the critic predicted"),
    Metric("critic/grad_norm", "", "global gradient norm of the critic before clipping"),
    Metric("critic/lr", "", "learning rate of the critic"),
    Metric("learner/bad_steps", "batches", "1 where a reward, loss or gradient was not finite, else 0"),
    Metric("learner/peak_memory_gib", "GiB", "most memory of a rank"),
    Metric("learner/mfu", "share", "FLOP/s of the update over the ranks' peak"),
    Metric("learner/loss", "", "policy loss + KL and entropy terms"),
    Metric("learner/policy_loss", "", "surrogate, negated"),
    Metric("learner/grad_norm", "", "global gradient norm before clipping"),
    Metric("learner/lr", "", "learning rate"),
    Metric("learner/optimizer_steps", "steps", "optimizer steps on the batch"),
    Metric("learner/tokens_trained", "tokens", "sampled tokens of the batch"),
    Metric("learner/tokens_total", "tokens", "tokens of the batch, context included"),
    Metric("learner/tokens_per_s", "tokens/s", "tokens learnt from per second, all ranks together"),
    Metric("learner/padding_efficiency", "share", "computed positions that are not padding"),
    Metric("learner/packing_efficiency", "share", "share of micro_batch_tokens that micro-batches were filled to"),
    Metric("learner/rank_balance", "share", "mean of the ranks' tokens in a step, over those of the fullest rank"),
    Metric("learner/keep_rate", "share", "groups kept of those judged, where groups without signal are dropped"),
    Metric("learner/groups_without_signal", "share", "groups with one member, or with the same reward for all members"),
    Metric("time/rollout_s", "s", "playing the batch's episodes"),
    Metric("time/learn_s", "s", "learning from the batch"),
    Metric("time/sync_s", "s", "putting the weights into the engines, probe included"),
    Metric("time/checkpoint_s", "s", "writing a checkpoint"),
    Metric("time/step_s", "s", "the whole step"),
    Metric("time/elapsed_s", "s", "since the run began"),
)

METRICS: dict[str, Metric] = {metric.key: metric for metric in _DECLARED}

# The learner's own names (`learner.metrics.LEARNER_METRICS`) by group; `step_seconds` is `time/learn_s`.
_POLICY = (
    "entropy",
    "clip_fraction_low",
    "clip_fraction_high",
    "kl_ref",
    "kl_coef",
    "importance_mean",
    "importance_cut",
    "effective_sample",
    "approx_kl",
    "ratio_mean",
    "ratio_max_deviation",
    "logprob_diff_mean",
    "logprob_diff_max",
)


def metric(key: str) -> Metric | None:
    """The declaration of a key or of its family; None if it is not declared."""
    family = "/".join(key.split("/", 2)[:2]) + "/*"  # a member's name may hold slashes, as models' names do
    return METRICS.get(key) or METRICS.get(family)


def undeclared(keys: Iterable[str]) -> list[str]:
    """The keys that no metric declares."""
    return [key for key in keys if metric(key) is None]


def from_learner(reported: Mapping[str, float]) -> dict[str, float]:
    """A learner's metrics under the run's names."""
    row: dict[str, float] = {}
    for name, value in reported.items():
        if name == "step_seconds":
            row["time/learn_s"] = value
        elif name in CRITIC_METRICS:
            row[f"critic/{name.removeprefix('critic_')}"] = value
        else:
            row[f"{'policy' if name in _POLICY else 'learner'}/{name}"] = value
    if "clip_fraction_low" in reported and "clip_fraction_high" in reported:
        row["policy/clip_fraction"] = reported["clip_fraction_low"] + reported["clip_fraction_high"]
    return row
