"""Group-normalised advantages: what a trajectory's reward is worth against its group's.

GRPO, Shao et al. 2024 (arXiv 2402.03300, section 4.1.2): A_i = (r_i - mean(r)) / std(r) over the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

EPS = 1e-6
"""Added to the standard deviation, and the spread of rewards below which a group carries no signal: rewards
that differ by rounding alone would otherwise be blown up to advantages of order one."""


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """Advantages `[n]`, one per trajectory, and what the groups were like."""

    values: npt.NDArray[np.float64]
    groups: int
    groups_without_signal: int  # groups of one, or whose rewards are all equal

    @property
    def share_without_signal(self) -> float:
        """Share of groups whose trajectories all have advantage 0."""
        return self.groups_without_signal / self.groups


def group_advantages(
    rewards: Sequence[float] | npt.NDArray[np.float64], groups: Sequence[str], *, normalize_std: bool = True
) -> GroupAdvantages:
    """Advantages from total rewards `[n]` and group ids `[n]`, in the same order.

    The standard deviation is the population's (divided by n). With `normalize_std=False` only the mean is
    taken off (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783). Groups of one and groups whose rewards span less
    than `EPS` get 0.

    Raises:
        ValueError: nothing given, lengths differ, or a reward is not finite.
    """
    r = np.asarray(rewards, dtype=np.float64)
    if len(r) == 0 or len(r) != len(groups):
        raise ValueError(f"rewards and groups must have the same length above 0, got {len(r)} and {len(groups)}")
    if not np.isfinite(r).all():
        bad = int(np.flatnonzero(~np.isfinite(r))[0])
        raise ValueError(f"rewards[{bad}]={r[bad]} of group {groups[bad]!r} is not finite; check the reward preset")
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    count = len(names)
    lowest, highest = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(lowest, member, r)
    np.maximum.at(highest, member, r)
    flat = highest - lowest < EPS
    size = np.bincount(member, minlength=count)
    centred = r - (np.bincount(member, r, count) / size)[member]
    std = np.sqrt(np.bincount(member, centred**2, count) / size)
    values = centred / (std[member] + EPS) if normalize_std else centred
    values[flat[member]] = 0.0
    return GroupAdvantages(values, count, int(flat.sum()))
