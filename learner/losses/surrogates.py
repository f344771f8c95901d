"""Surrogate objectives: what a token's probability ratio and advantage are worth, negated to be minimised.

ppo      -min(r A, clip(r) A), r the token's ratio (Schulman et al. 2017, arXiv 1707.06347, equation 7), with a
         lower and an upper clip of its own (DAPO, arXiv 2503.14476, section 3.1), and if asked the dual clip: for
         A < 0 the objective stops falling at r = c (Ye et al. 2020, arXiv 1912.09729, "Dual-clip PPO")
gspo     the same with the ratio of the whole sequence, the geometric mean of its tokens' (Zheng et al. 2025,
         arXiv 2507.18071, equation 7), in the form that lets advantages differ by token (GSPO-token, equation 14)
cispo    -sg(clip(r)) A log p: the ratio is clipped, no token's gradient is (MiniMax-M1, arXiv 2506.13585,
         equation 4)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.losses.aggregation import sequence_sums


@dataclass(frozen=True, slots=True)
class Surrogate:
    """Per token, all `[n]`: `loss` carries the gradient."""

    loss: Tensor
    clipped_low: Tensor  # bool: the lower clip decided the loss (in cispo: the ratio was below it)
    clipped_high: Tensor  # bool: the upper clip did, or the dual clip (in cispo: the ratio was above it)


def ppo_surrogate(
    ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> Surrogate:
    """Clipped surrogate; `ratio` and `advantages` are `[n]`, ratios count from 1 - clip_low to 1 + clip_high."""
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
    """GSPO-token's ratio `[n]`: everywhere the sequence's, exp of its mean log ratio; the gradient is each token's own.

    `sequence` `[n]` numbers the sequences from 0; tokens of weight 0 do not count in the mean. With one advantage per
    sequence, values and gradients are those of the sequence ratio itself (section 4.3).
    """
    log_ratio = (logprobs - old_logprobs).detach() * weights
    mean = sequence_sums(log_ratio, sequence) / sequence_sums(weights, sequence).clamp(min=1)
    return (mean[sequence] + logprobs - logprobs.detach()).exp()


def cispo_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Surrogate:
    """Log-probabilities weighted by advantage and clipped ratio; all `[n]`. At clip_low = 1 no ratio is too low."""
    ratio = (logprobs - old_logprobs).detach().exp()
    low, high = 1 - clip_low, 1 + clip_high
    return Surrogate(-ratio.clamp(low, high) * advantages * logprobs, ratio < low, ratio > high)
