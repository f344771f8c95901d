"""Aggregation: how the losses of tokens become the loss of an optimizer step.

    token_mean                 mean over all trained tokens of the step (DAPO, arXiv 2503.14476, section 3.3)
    sequence_mean              mean over a sequence's tokens, then over sequences (GRPO, arXiv 2402.03300, equation 3)
    sequence_sum_token_norm    a sequence's sum divided by a constant number of tokens, then the mean over sequences:
                               favours no length (Dr. GRPO, arXiv 2503.20783, section 3.2)

Each is a weighted sum over tokens; the divisor counts over all ranks and micro-batches of the step. A sequence is
never split over micro-batches, so each micro-batch knows the lengths of its sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from learner.settings import Aggregation

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class StepTotals:
    """How much an optimizer step trains on, over all ranks and micro-batches."""

    tokens: int
    sequences: int


def sequence_sums(values: Tensor, sequence: Tensor) -> Tensor:
    """Sums `[s]` of `values` `[n]` over each sequence; `sequence` `[n]` gives each token's sequence, from 0."""
    return values.new_zeros(int(sequence.max()) + 1).index_add(0, sequence, values)


def aggregate(
    values: Tensor,
    weights: Tensor,
    sequence: Tensor,
    totals: StepTotals,
    aggregation: Aggregation = "token_mean",
    norm_tokens: int | None = None,
) -> Tensor:
    """This micro-batch's part of the aggregate of `values` `[n]`: the sum over micro-batches and ranks is the whole.

    `weights` `[n]` are 1 for trained tokens and 0 for the placeholder of an empty micro-batch; `sequence` `[n]` gives
    each token's sequence, from 0. `norm_tokens` is the constant of `sequence_sum_token_norm`.

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
