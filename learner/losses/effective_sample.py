"""The effective sample: how many of a step's sequences are left to learn from once they are weighted.

With importance weights w of the N sequences of an optimizer step it is (sum w)^2 / sum w^2 (Kong 1992): N where all
weigh alike, 1 where one of them decides everything. Where it falls, batches have grown too stale for the steps that are
taken on them (VCPO, Huang et al. 2026, arXiv 2602.17616). A sequence's weight is the product of its tokens' ratios
learner / sampler, cut at the cap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from learner.losses.aggregation import sequence_sums

if TYPE_CHECKING:
    from torch import Tensor

_SUREST = 80.0  # nats: beyond, a weight is 0 in float32 anyway


@dataclass(frozen=True, slots=True)
class WeightSums:
    """Sums over the sequences of a micro-batch, or of more when added up; of none both are 0."""

    weight: Tensor
    squared: Tensor


def weight_sums(log_ratio: Tensor, weights: Tensor, sequence: Tensor, cap: float) -> WeightSums:
    """Sums of the sequences' importance weights, without gradient.

    `log_ratio` `[n]` is learner less sampler, nats; `weights` `[n]` are 0 for tokens that only keep an empty
    micro-batch going; `sequence` `[n]` numbers the sequences from 0; `cap` is above 1.
    """
    with torch.no_grad():
        logs = sequence_sums(log_ratio * weights, sequence).clamp(min=-_SUREST, max=math.log(cap))
        found = logs.exp() * (sequence_sums(weights, sequence) > 0)
        return WeightSums(found.sum(), found.square().sum())


def effective_share(sums: Tensor, sequences: int) -> float:
    """The effective sample as a share of `sequences`, in (0, 1], from their weights' sum and sum of squares `[2]`;
    1 where that is not known, as of weights that are not finite."""
    weight, squared = sums.tolist()
    share = weight * weight / (sequences * squared) if squared > 0 else math.nan
    return min(share, 1.0) if math.isfinite(share) else 1.0
