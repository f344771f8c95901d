"""Importance weights: what the sampling engine's probabilities make of a token that the learner would rate otherwise.

Engine and learner give the same token different probabilities: their kernels round differently, and with staleness
above 0 the engine held older weights. The surrogate's ratio is then taken against the learner's own log-probabilities
at the start of the batch, and each token is weighted by rho = learner / sampler at that moment, kept from exploding:

    truncate    min(rho, cap): truncated importance sampling (Ionides 2008; for engines of language models Yao et al.
                2025, fengyao.notion.site/off-policy-rl)
    mask        rho where 1 / cap <= rho <= cap, else 0: a token that the two disagree on teaches nothing (IcePop,
                Ling team 2025, arXiv 2510.18855)

A masked token still counts in the mean's denominator, so that the result does not depend on packing or ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

ImportanceCorrection = Literal["truncate", "mask"]


def importance_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor, correction: ImportanceCorrection, cap: float
) -> Tensor:
    """Weights `[n]` of tokens, without gradient.

    `old_logprobs` are the learner's at the start of the batch and `sampler_logprobs` the engine's, both `[n]`, nats;
    `cap` is above 1.
    """
    rho = (old_logprobs - sampler_logprobs).detach().exp()
    if correction == "truncate":
        return rho.clamp(max=cap)
    return rho.where((rho >= 1 / cap) & (rho <= cap), 0.0)
