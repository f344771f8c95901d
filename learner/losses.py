"""The policy-gradient loss, token by token, over the tokens that the policy sampled.

PPO's clipped surrogate (Schulman et al. 2017, arXiv 1707.06347) with separate lower and upper clips (DAPO, Yu
et al. 2025, arXiv 2503.14476), the k3 estimator of the KL to a reference policy (Schulman 2020,
joschu.net/blog/kl-approx.html; GRPO's equation 4) and an entropy bonus. Losses are summed over tokens and
divided by a token count that the caller gives: the count over all ranks and micro-batches of the optimizer
step, so that the result depends neither on packing nor on the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What the policy thinks of each target token, `[n]` float32, in nats."""

    logprobs: Tensor
    entropy: Tensor


def score_logits(logits: Tensor, targets: Tensor, temperature: float, *, entropy_grad: bool = False) -> TokenScores:
    """Log-probabilities of `targets` `[n]` and entropies of the distributions softmax(logits / temperature).

    `logits` is `[n, vocab]` in any float type. The entropy carries no gradient unless `entropy_grad`.
    """
    scaled = logits.float() / temperature
    log_z = torch.logsumexp(scaled, dim=-1)
    logprobs = scaled.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - log_z
    with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
        # H = log Z - E[logit]
        entropy = log_z - (torch.softmax(scaled, dim=-1) * scaled).sum(-1)
    return TokenScores(logprobs, entropy)


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The loss of some tokens: `loss` carries the gradient, the rest are sums (or maxima) without one."""

    loss: Tensor
    policy_loss: Tensor
    kl_ref: Tensor
    entropy: Tensor
    clipped_low: Tensor  # tokens whose ratio fell below 1 - clip_low while the advantage was negative
    clipped_high: Tensor  # tokens whose ratio rose above 1 + clip_high while the advantage was positive
    ratio: Tensor
    approx_kl: Tensor  # k3 of sampler against policy: ratio - 1 - log ratio
    logprob_diff: Tensor  # |policy - sampler|
    ratio_deviation_max: Tensor  # max |ratio - 1|
    logprob_diff_max: Tensor


def policy_loss(
    scores: TokenScores,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    token_count: int,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
) -> LossTerms:
    """Loss of `n` sampled tokens.

    `old_logprobs`, `advantages`, `weights` and `ref_logprobs` are `[n]`; a weight is 1 for a trained token
    and 0 for a token that only keeps an empty micro-batch going. Every term but the two maxima is a sum
    divided by `token_count`: add up micro-batches and ranks to get means over tokens.

        loss = mean(-min(ratio A, clip(ratio) A)) + kl_coef mean(k3) - entropy_coef mean(H)
    """
    log_ratio = scores.logprobs - old_logprobs
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    surrogate = -torch.minimum(ratio * advantages, clipped * advantages)
    total = surrogate
    kl = torch.zeros_like(ratio)
    if ref_logprobs is not None:
        delta = ref_logprobs - scores.logprobs
        kl = delta.exp() - delta - 1
        total = total + kl_coef * kl
    if entropy_coef:
        total = total - entropy_coef * scores.entropy

    def mean(values: Tensor) -> Tensor:
        return (values * weights).sum() / token_count

    loss = mean(total)
    with torch.no_grad():
        return LossTerms(
            loss=loss,
            policy_loss=mean(surrogate),
            kl_ref=mean(kl),
            entropy=mean(scores.entropy),
            clipped_low=mean(((ratio < 1 - clip_low) & (advantages < 0)).float()),
            clipped_high=mean(((ratio > 1 + clip_high) & (advantages > 0)).float()),
            ratio=mean(ratio),
            approx_kl=mean(ratio - 1 - log_ratio),
            logprob_diff=mean(log_ratio.abs()),
            ratio_deviation_max=((ratio - 1).abs() * weights).max(),
            logprob_diff_max=(log_ratio.abs() * weights).max(),
        )
