"""Importance weights: correct for the difference between the sampling engine's probabilities and the learner's.

Engine and learner give the same token different probabilities: their kernels round differently, and with staleness
above 0 the engine had older weights. With one correction, the surrogate's own ratio is policy / sampler:

    clip        the surrogate's clips keep the policy near the sampler, over all steps since sampling (PPO unchanged,
                Schulman et al. 2017). The cap serves as dual clip: it stops a token that has already moved far enough

With the others the surrogate's ratio is taken against the learner's log-probabilities at the start of the batch
(decoupled PPO, Hilton et al. 2022, arXiv 2110.00641), and each token is weighted by a bounded form of
rho = learner / sampler at that moment:

    truncate    min(rho, cap): truncated importance sampling (Ionides 2008; for language models' engines Yao et al.
                2025, fengyao.notion.site/off-policy-rl)
    mask        rho where 1 / cap <= rho <= cap, else 0: a token on which the two disagree is not trained (IcePop,
                Ling team 2025, arXiv 2510.18855)

A masked token still counts in the mean's denominator, so that the result does not depend on packing or ranks. With one
optimizer step per batch, `truncate` and `mask` have no trust region: at staleness 2, samples of one policy version push
the policy in the same direction in three steps, which overshoots (`lr_by_staleness` counters that, too). On the
embedded world, which is trained at a high rate, both collapse at staleness 2 and `clip` does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


def importance_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor, correction: Literal["truncate", "mask"], cap: float
) -> Tensor:
    """Weights `[n]` of tokens, without gradient.

    `old_logprobs` are the learner's at the start of the batch, `sampler_logprobs` the engine's; both `[n]`, nats.
    `cap` is above 1.
    """
    rho = (old_logprobs - sampler_logprobs).detach().exp()
    if correction == "truncate":
        return rho.clamp(max=cap)
    return rho.where((rho >= 1 / cap) & (rho <= cap), 0.0)
