"""Importance weights: what the sampling engine's probabilities make of a token that the learner would rate otherwise.

Engine and learner give the same token different probabilities: their kernels round differently, and with staleness
above 0 the engine held older weights. Either the surrogate's own ratio is taken against the sampler:

    clip        its clips keep the policy near what sampled, over all the steps since (PPO as it is, Schulman et al.
                2017), and the cap is its dual clip: a token that has been moved far enough is moved no further

Or it is taken against the learner's own log-probabilities at the start of the batch (decoupled PPO, Hilton et al. 2022,
arXiv 2110.00641), and each token is weighted by rho = learner / sampler at that moment, kept from exploding:

    truncate    min(rho, cap): truncated importance sampling (Ionides 2008; for engines of language models Yao et al.
                2025, fengyao.notion.site/off-policy-rl)
    mask        rho where 1 / cap <= rho <= cap, else 0: a token that the two disagree on teaches nothing (IcePop,
                Ling team 2025, arXiv 2510.18855)

A masked token still counts in the mean's denominator, so that the result does not depend on packing or ranks. With one
optimizer step a batch the latter two have no trust region of their own: what was sampled two versions ago pushes three
times, and past the goal (`lr_by_staleness` is for that, too). On the embedded world, which is trained at a high rate,
both collapse at staleness 2 and `clip` does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


def importance_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor, correction: Literal["truncate", "mask"], cap: float
) -> Tensor:
    """Weights `[n]` of tokens, without gradient.

    `old_logprobs` are the learner's at the start of the batch and `sampler_logprobs` the engine's, both `[n]`, nats;
    `cap` is above 1.
    """
    rho = (old_logprobs - sampler_logprobs).detach().exp()
    if correction == "truncate":
        return rho.clamp(max=cap)
    return rho.where((rho >= 1 / cap) & (rho <= cap), 0.0)
