"""Aggregation: how the losses of tokens become the loss of an optimizer step.

    token_mean                 every trained token of the step counts alike (DAPO, arXiv 2503.14476, section 3.3)
    sequence_mean              mean over a sequence's tokens, then over sequences (GRPO, arXiv 2402.03300, equation 3)
    sequence_sum_token_norm    a sequence's sum over a constant number of tokens, then the mean over sequences: no
                               length is favoured (Dr. GRPO, arXiv 2503.20783, section 3.2)

Each is a weighted sum over tokens with a divisor that counts over all ranks and micro-batches of the step. A sequence
is never split over micro-batches, so its length is known where its tokens are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from learner.settings import Aggregation

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class StepTotals:
    """What an optimizer step trains on, over all ranks and micro-batches."""

    tokens: int
    sequences: int


def sequence_sums(values: Tensor, sequence: Tensor) -> Tensor:
    """Sums `[s]` of `values` `[n]` over the tokens of each sequence; `sequence` `[n]` is its number, from 0."""
    return values.new_zeros(int(sequence.max()) + 1).index_add(0, sequence, values)


def aggregate(
    values: Tensor,
    weights: Tensor,
    sequence: Tensor,
    totals: StepTotals,
    aggregation: Aggregation = "token_mean",
    norm_tokens: int | None = None,
) -> Tensor:
    """This micro-batch's part of the aggregate of `values` `[n]`: add up micro-batches and ranks to get the whole.

    `weights` `[n]` are 1 for trained tokens and 0 for those that only keep an empty micro-batch going. `norm_tokens`
    is the constant of `sequence_sum_token_norm`.

    Raises:
        ValueError: `sequence_sum_token_norm` without `norm_tokens`.
    """
    if aggregation == "token_mean":
        return (values * weights).sum() / totals.tokens
    if aggregation == "sequence_mean":
        lengths = sequence_sums(weights, sequence).clamp(min=1)
        return (values * weights / lengths[sequence]).sum() / totals.sequences
    if norm_tokens is None:
        raise ValueError("aggregation=sequence_sum_token_norm needs norm_tokens, the constant to divide by")
    return (values * weights).sum() / (totals.sequences * norm_tokens)
