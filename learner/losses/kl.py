"""The KL divergence to the reference policy: its estimators, and the controller of its coefficient.

For a token sampled from the policy, with d = log(policy / reference) (Schulman 2020, joschu.net/blog/kl-approx.html):

    k1 = d                  unbiased, of either sign
    k2 = d^2 / 2            biased, never negative
    k3 = exp(-d) - 1 + d    unbiased, never negative; GRPO's equation 4

As a term of the loss on tokens that the policy itself sampled, k2 has the gradient of KL(policy || reference), and k3
has it to first order in d. The gradient of k1 is zero in expectation, whatever the reference (Liu et al. 2025, arXiv
2510.01555).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from learner.settings import KlEstimator

if TYPE_CHECKING:
    from torch import Tensor


GAIN = 0.1
"""How fast the coefficient follows the error: K_beta of Ziegler et al. 2019 (arXiv 1909.08593), section 2.2."""

ERROR_LIMIT = 0.2
"""Bound on the relative error in one update; same section."""


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: KlEstimator) -> Tensor:
    """Estimate of KL(policy || reference) at each token, nats; all tensors have the same shape.

    Gradients flow through both arguments.
    """
    delta = ref_logprobs - logprobs
    if estimator == "k1":
        return -delta
    if estimator == "k2":
        return delta.square() / 2
    return delta.exp() - delta - 1


def adapted_coef(coef: float, kl: float, target: float) -> float:
    """The coefficient after a batch with mean KL `kl`, which brings the next batches nearer to `target` (same unit).

    coef (1 + GAIN clip(kl / target - 1, -ERROR_LIMIT, ERROR_LIMIT)): Ziegler et al. 2019, section 2.2.
    """
    error = min(max(kl / target - 1.0, -ERROR_LIMIT), ERROR_LIMIT)
    return coef * (1.0 + GAIN * error)
