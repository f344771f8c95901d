"""The policy's loss over its sampled tokens: surrogate, KL to the reference policy, entropy bonus.

Each term is a sum over tokens; its divisor counts over all ranks and micro-batches of the optimizer step, so that the
result depends neither on packing nor on the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from learner.losses.aggregation import StepTotals, aggregate
from learner.losses.effective_sample import weight_sums
from learner.losses.importance import importance_weights
from learner.losses.kl import kl_estimate
from learner.losses.surrogates import Surrogate, cispo_surrogate, ppo_surrogate, sequence_ratio
from learner.settings import LearnerSettings


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The policy's scores of each target token, `[n]` float32, in nats."""

    logprobs: Tensor
    entropy: Tensor  # of the policy's distribution over that token


def score_logits(logits: Tensor, targets: Tensor, temperature: float, *, entropy_grad: bool = False) -> TokenScores:
    """Log-probabilities of `targets` `[n]` and entropies of the distributions softmax(logits / temperature).

    `logits` is `[n, vocab]` in any float type. The entropy carries no gradient unless `entropy_grad`.
    """
    if not entropy_grad:
        return TokenScores(*_FrugalScores.apply(logits, targets, temperature))
    scaled = logits.float() / temperature
    log_z = torch.logsumexp(scaled, dim=-1)
    # H = log Z - E[logit]
    entropy = log_z - (torch.softmax(scaled, dim=-1) * scaled).sum(-1)
    return TokenScores(_chosen(scaled, targets) - log_z, entropy)


def _chosen(scaled: Tensor, targets: Tensor) -> Tensor:
    return scaled.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


class _FrugalScores(torch.autograd.Function):
    """`score_logits` without a gradient of the entropy; it keeps only one copy of the logits for the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        scaled = logits.float() if temperature == 1 else logits.float() / temperature
        log_z = torch.logsumexp(scaled, dim=-1)
        entropy = log_z - torch.softmax(scaled, dim=-1).mul_(scaled).sum(-1)
        ctx.save_for_backward(scaled, log_z, targets)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        ctx.mark_non_differentiable(entropy)
        return _chosen(scaled, targets) - log_z, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        scaled, log_z, targets = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        # d log p[target] / d logit = [is target] - p
        whole = (scaled - log_z.unsqueeze(-1)).exp_().mul_(-grad)
        whole.scatter_add_(-1, targets.unsqueeze(-1), grad).div_(ctx.temperature)
        return whole.to(ctx.dtype), None, None


@dataclass(frozen=True, slots=True)
class TrainedTokens:
    """The loss's inputs for `n` trained tokens, all `[n]`; log-probabilities in nats."""

    sampler_logprobs: Tensor
    advantages: Tensor
    weights: Tensor  # 1, or 0 for the placeholder of an empty micro-batch
    sequence: Tensor  # int64, index of the token's sequence in the micro-batch, from 0
    old_logprobs: Tensor | None = None  # the learner's at the start of the batch, for importance weights
    ref_logprobs: Tensor | None = None  # the reference policy's; None without one


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The loss of some tokens. Only `loss` carries a gradient; the other terms are sums (or maxima) without one.

    `loss` and `policy_loss` are aggregated by `settings.aggregation`. The other sums are parts of a mean over the
    step's tokens, except the two plain sums of sequence weights.
    """

    loss: Tensor
    policy_loss: Tensor
    kl_ref: Tensor
    entropy: Tensor
    clipped_low: Tensor  # tokens whose loss the lower clip decided
    clipped_high: Tensor  # tokens whose loss the upper clip decided
    importance: Tensor  # weight against the sampler; 1 without a correction
    importance_cut: Tensor  # tokens whose weight was cut or masked
    sequence_weight: Tensor  # sum of whole sequences' weights against the sampler; see effective_sample.py
    sequence_weight_squared: Tensor  # sum of the squares of these weights
    ratio: Tensor  # policy / sampler
    approx_kl: Tensor  # k3 of sampler against policy: ratio - 1 - log ratio
    logprob_diff: Tensor  # |policy - sampler|
    ratio_deviation_max: Tensor  # max |ratio - 1|
    logprob_diff_max: Tensor


def policy_loss(
    scores: TokenScores, tokens: TrainedTokens, settings: LearnerSettings, totals: StepTotals, *, kl_coef: float
) -> LossTerms:
    """Loss of the `n` sampled tokens of one micro-batch, which contains whole sequences.

        aggregate(importance weight * surrogate + kl_coef KL - entropy_coef H)

    Every term but the two maxima is this micro-batch's part of the optimizer step's term: add up micro-batches and
    ranks. With `kl_in=reward` the KL is measured but is no part of the loss.

    Raises:
        ValueError: `settings.importance` is truncate or mask, but `tokens` has no `old_logprobs`.
    """
    surrogate, weight, cut = _surrogate(scores.logprobs, tokens, settings)
    kl = torch.zeros_like(scores.logprobs)
    total = surrogate.loss
    if tokens.ref_logprobs is not None:
        kl = kl_estimate(scores.logprobs, tokens.ref_logprobs, settings.kl_estimator)
        if settings.kl_in == "loss":
            total = total + kl_coef * kl
    if settings.entropy_coef:
        total = total - settings.entropy_coef * scores.entropy

    def aggregated(values: Tensor) -> Tensor:
        return aggregate(
            values, tokens.weights, tokens.sequence, totals, settings.aggregation, settings.aggregation_tokens
        )

    def mean(values: Tensor) -> Tensor:
        return aggregate(values, tokens.weights, tokens.sequence, totals)

    loss = aggregated(total)
    with torch.no_grad():
        log_ratio = scores.logprobs - tokens.sampler_logprobs
        ratio = log_ratio.exp()
        stale = log_ratio if tokens.old_logprobs is None else tokens.old_logprobs - tokens.sampler_logprobs
        whole = weight_sums(stale, tokens.weights, tokens.sequence, settings.importance_cap)
        return LossTerms(
            loss=loss,
            policy_loss=aggregated(surrogate.loss),
            kl_ref=mean(kl),
            entropy=mean(scores.entropy),
            clipped_low=mean(surrogate.clipped_low.float()),
            clipped_high=mean(surrogate.clipped_high.float()),
            importance=mean(weight),
            importance_cut=mean(cut.float()),
            sequence_weight=whole.weight,
            sequence_weight_squared=whole.squared,
            ratio=mean(ratio),
            approx_kl=mean(ratio - 1 - log_ratio),
            logprob_diff=mean(log_ratio.abs()),
            ratio_deviation_max=((ratio - 1).abs() * tokens.weights).max(),
            logprob_diff_max=(log_ratio.abs() * tokens.weights).max(),
        )


def _surrogate(logprobs: Tensor, tokens: TrainedTokens, settings: LearnerSettings) -> tuple[Surrogate, Tensor, Tensor]:
    """The surrogate with importance weights in its loss; the weights `[n]`; and whether each weight was cut `[n]`."""
    if settings.importance == "auto" or settings.importance == "off" or settings.importance == "clip":
        plain = _objective(logprobs, tokens.sampler_logprobs, tokens, settings)
        return plain, torch.ones_like(logprobs), torch.zeros_like(logprobs, dtype=torch.bool)
    old = tokens.old_logprobs
    if old is None:
        raise ValueError(
            f"importance={settings.importance} needs old_logprobs, the learner's log-probabilities at the start of the "
            "batch; score the batch before its first optimizer step"
        )
    weight = importance_weights(old, tokens.sampler_logprobs, settings.importance, settings.importance_cap)
    cut = weight != (old - tokens.sampler_logprobs).exp()
    plain = _objective(logprobs, old, tokens, settings)
    return Surrogate(weight * plain.loss, plain.clipped_low, plain.clipped_high), weight, cut


def _objective(logprobs: Tensor, old_logprobs: Tensor, tokens: TrainedTokens, settings: LearnerSettings) -> Surrogate:
    """The surrogate that the settings name, with ratios against `old_logprobs` `[n]`."""
    low, high = settings.clip_low, settings.clip_high
    if settings.loss == "cispo":
        return cispo_surrogate(logprobs, old_logprobs, tokens.advantages, clip_low=low, clip_high=high)
    if settings.loss == "gspo":
        ratio = sequence_ratio(logprobs, old_logprobs, tokens.weights, tokens.sequence)
    else:
        ratio = (logprobs - old_logprobs).exp()
    dual = settings.dual_clip
    if dual is None and settings.importance == "clip":
        dual = settings.importance_cap
    return ppo_surrogate(ratio, tokens.advantages, clip_low=low, clip_high=high, dual_clip=dual)
