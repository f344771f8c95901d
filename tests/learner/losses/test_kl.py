"""KL: the estimators on distributions with known divergence, and the controller's arithmetic."""

from __future__ import annotations

import pytest
import torch

from learner.losses.kl import adapted_coef, kl_estimate
from learner.settings import KlEstimator


def test_estimators_in_expectation() -> None:
    """Exact expectations over the policy: those of k1 and k3 are KL(policy || reference), that of k2 is near it."""
    policy_logits = torch.randn(9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    logits = policy_logits.requires_grad_()
    policy = torch.log_softmax(logits, -1)
    reference = torch.log_softmax(policy_logits.detach() + 0.05 * torch.arange(9), -1)
    exact = (policy.exp() * (policy - reference)).sum()
    (gradient,) = torch.autograd.grad(exact, logits, retain_graph=True)
    p = policy.exp().detach()

    def of(estimator: KlEstimator) -> tuple[float, torch.Tensor]:
        value = (p * kl_estimate(policy, reference, estimator)).sum()
        return value.item(), torch.autograd.grad(value, logits, retain_graph=True)[0]

    (k1, k1_gradient), (k2, k2_gradient), (k3, k3_gradient) = of("k1"), of("k2"), of("k3")
    assert k1 == pytest.approx(exact.item(), abs=1e-12)
    assert k3 == pytest.approx(exact.item(), abs=1e-12)
    assert k2 == pytest.approx(exact.item(), rel=0.05)
    torch.testing.assert_close(k1_gradient, torch.zeros(9, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(k2_gradient, gradient, rtol=0, atol=1e-12)
    torch.testing.assert_close(k3_gradient, gradient, rtol=0, atol=0.1 * gradient.abs().max().item())


@pytest.mark.parametrize(
    ("kl", "coef"),
    [
        (6.0, 0.2),  # on target
        (6.6, 0.2 * 1.01),  # 10 % above: + 0.1 * 0.1
        (600.0, 0.2 * 1.02),  # the error is bounded by 0.2
        (5.4, 0.2 * 0.99),
        (0.0, 0.2 * 0.98),
    ],
)
def test_controller(kl: float, coef: float) -> None:
    assert adapted_coef(0.2, kl, target=6.0) == pytest.approx(coef, abs=1e-12)
