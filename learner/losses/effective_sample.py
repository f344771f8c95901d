"""The effective sample size: how many sequences of an optimizer step still count after importance weighting.

With importance weights w of the step's N sequences it is (sum w)^2 / sum w^2 (Kong 1992): N if all weights are equal, 1
if one sequence has all the weight. A falling value shows that batches have become too stale for the steps taken on
them (VCPO, Huang et al. 2026, arXiv 2602.17616). A sequence's weight is the product of its tokens' ratios
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

_SUREST = 80.0  # nats: the weight exp(-80) is as good as 0


@dataclass(frozen=True, slots=True)
class WeightSums:
    """Sums over the sequences of a micro-batch; both are 0 for an empty one."""

    weight: Tensor
    squared: Tensor


def weight_sums(log_ratio: Tensor, weights: Tensor, sequence: Tensor, cap: float) -> WeightSums:
    """Sums of the sequences' importance weights, without gradient.

    `log_ratio` `[n]` is the learner's log-probability minus the sampler's, nats; `weights` `[n]` are 1, or 0 for the
    placeholder of an empty micro-batch; `sequence` `[n]` gives each token's sequence, from 0; `cap` is above 1.
    """
    with torch.no_grad():
        logs = sequence_sums(log_ratio * weights, sequence).clamp(min=-_SUREST, max=math.log(cap))
        found = logs.exp() * (sequence_sums(weights, sequence) > 0)
        return WeightSums(found.sum(), found.square().sum())


def effective_share(sums: Tensor, sequences: int) -> float:
    """The effective sample size as a share of `sequences`, in (0, 1].

    `sums` `[2]` are the sum of the weights and the sum of their squares. If these give no finite share, it is 1.
    """
    weight, squared = sums.tolist()
    share = weight * weight / (sequences * squared) if squared > 0 else math.nan
    return min(share, 1.0) if math.isfinite(share) else 1.0
