"""The critic's loss: squared error to the returns, clipped to keep a value near the value that the advantages used.

PPO2's clip (Dhariwal et al. 2017, OpenAI Baselines, `ppo2`; Huang et al. 2022, "The 37 implementation details of
PPO", detail 9): the loss uses the larger of the clipped and the unclipped error.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ValueTerms:
    """The loss of some values. Only `loss` carries a gradient; both terms are this micro-batch's part of a mean."""

    loss: Tensor
    clipped: Tensor  # share of tokens whose clipped error is larger


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    weights: Tensor,
    *,
    token_count: int,
    clip: float | None = None,
) -> ValueTerms:
    """Loss of the critic at `n` trained tokens; all tensors are `[n]`, in units of reward.

    `weights` are 1 for trained tokens and 0 for the placeholder of an empty micro-batch. The sum is divided by
    `token_count`, the trained tokens of the optimizer step over all ranks.

        mean(max((v - R)^2, (v_old + clip(v - v_old, -c, c) - R)^2)) / 2
    """
    error = (values - returns).square()
    clipped = error.new_zeros(error.shape)
    if clip is not None:
        held = old_values + (values - old_values).clamp(-clip, clip)
        held_error = (held - returns).square()
        clipped = (held_error > error).to(error.dtype)
        error = error.maximum(held_error)
    loss = (error * weights).sum() / (2 * token_count)
    return ValueTerms(loss, ((clipped * weights).sum() / token_count).detach())
