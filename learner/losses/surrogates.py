"""Surrogate objectives of a token's probability ratio r and advantage A, negated to be minimised.

ppo      -min(r A, clip(r) A) (Schulman et al. 2017, arXiv 1707.06347, equation 7), with separate lower and upper clips
         (DAPO, arXiv 2503.14476, section 3.1) and an optional dual clip c: for A < 0 the objective stops falling at
         r = c (Ye et al. 2020, arXiv 1912.09729, "Dual-clip PPO")
gspo     the same with the ratio of the whole sequence: the geometric mean of its tokens' ratios (Zheng et al. 2025,
         arXiv 2507.18071, equation 7), in the form that lets advantages differ by token (GSPO-token, equation 14)
cispo    -sg(clip(r)) A log p, sg being stop-gradient: clips the ratio, but no token's gradient (MiniMax-M1,
         arXiv 2506.13585, equation 4)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.losses.aggregation import sequence_sums


@dataclass(frozen=True, slots=True)
class Surrogate:
    """Values per token, all `[n]`; only `loss` carries a gradient."""

    loss: Tensor
    clipped_low: Tensor  # bool: the lower clip decided the loss (in cispo: the ratio was below it)
    clipped_high: Tensor  # bool: the upper or dual clip decided the loss (in cispo: the ratio was above the upper clip)


def ppo_surrogate(
    ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> Surrogate:
    """Clipped surrogate of `ratio` and `advantages`, both `[n]`; ratios are held in [1 - clip_low, 1 + clip_high]."""
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    below = (ratio < 1 - clip_low) & (advantages < 0)
    above = (ratio > 1 + clip_high) & (advantages > 0)
    if dual_clip is not None:
        beyond = (ratio > dual_clip) & (advantages < 0)
        loss = torch.where(beyond, -dual_clip * advantages, loss)
        above = above | beyond
    return Surrogate(loss, below, above)


def sequence_ratio(logprobs: Tensor, old_logprobs: Tensor, weights: Tensor, sequence: Tensor) -> Tensor:
    """GSPO-token's ratio `[n]`: its value is the sequence's, exp of the mean log ratio; its gradient is the token's.

    `sequence` `[n]` gives each token's sequence, from 0; tokens of weight 0 do not count in the mean. With one
    advantage per sequence, values and gradients equal those of the sequence ratio itself (GSPO, section 4.3).
    """
    log_ratio = (logprobs - old_logprobs).detach() * weights
    mean = sequence_sums(log_ratio, sequence) / sequence_sums(weights, sequence).clamp(min=1)
    return (mean[sequence] + logprobs - logprobs.detach()).exp()


def cispo_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Surrogate:
    """Log-probabilities weighted by advantage and clipped ratio, all `[n]`; clip_low = 1 means no lower bound."""
    ratio = (logprobs - old_logprobs).detach().exp()
    low, high = 1 - clip_low, 1 + clip_high
    return Surrogate(-ratio.clamp(low, high) * advantages * logprobs, ratio < low, ratio > high)
