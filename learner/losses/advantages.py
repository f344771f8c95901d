"""Advantages from rewards alone: compares a trajectory's reward with those of its group or of its batch.

Every estimator takes rewards `[n]` and group ids `[n]` and gives advantages `[n]`: one per trajectory, valid for all
of its sampled tokens. `mean` and `std` are the group's; every standard deviation is the population's (over n).

    grpo                   (r - mean) / std
                           Shao et al. 2024, arXiv 2402.03300, section 4.1.2
    dr_grpo                r - mean
                           Liu et al. 2025, arXiv 2503.20783, section 3.2
    rloo                   r - mean of the group's other members
                           Ahmadian et al. 2024, arXiv 2402.14740, REINFORCE leave-one-out
    reinforce_pp           (r - batch mean) / batch std
                           Hu et al. 2025, arXiv 2501.03262, global advantage normalisation
    reinforce_pp_baseline  (r - mean) / batch std of (r - mean)
                           the same, the variant "with baseline"

REINFORCE++'s statistics are taken over trajectories here, not over tokens, so that a long trajectory counts once and
each group's advantages still sum to 0; its KL penalty stays in the loss. In every estimator but
`reinforce_pp`, which has no group baseline, a group without signal gets advantages of exactly 0. The caller leaves
void trajectories out: they have no reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Estimator = Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

EPS = 1e-6
"""Added to standard deviations. Also the spread of rewards below which a group has no signal: division by a tiny
spread would turn rounding differences into advantages of order one."""


@dataclass(frozen=True, slots=True)
class Advantages:
    """Advantages `[n]`, one per trajectory, and how many groups had signal."""

    values: Floats
    groups: int
    groups_without_signal: int  # groups with one member or with equal rewards

    @property
    def share_without_signal(self) -> float:
        """Share of groups without signal, in [0, 1]."""
        return self.groups_without_signal / self.groups


@dataclass(frozen=True, slots=True)
class Groups:
    """Which trajectories belong together: the groups' names `[g]`, and each trajectory's index `[n]` into them."""

    names: npt.NDArray[np.str_]
    member: npt.NDArray[np.intp]
    size: npt.NDArray[np.intp]  # [g]

    @staticmethod
    def of(ids: Sequence[str]) -> Groups:
        names, member = np.unique(np.asarray(ids), return_inverse=True)
        return Groups(names, member, np.bincount(member, minlength=len(names)))

    def mean(self, values: Floats) -> Floats:
        """Mean of every group `[g]`."""
        return np.bincount(self.member, values, len(self.names)) / self.size

    def std(self, values: Floats) -> Floats:
        """Population standard deviation of every group `[g]`."""
        return np.sqrt(self.mean((values - self.mean(values)[self.member]) ** 2))

    def varies(self, values: Floats) -> Flags:
        """Whether the members of every group `[g]` differ by `EPS` or more."""
        lowest, highest = np.full(len(self.names), np.inf), np.full(len(self.names), -np.inf)
        np.minimum.at(lowest, self.member, values)
        np.maximum.at(highest, self.member, values)
        return highest - lowest >= EPS


def estimate(
    rewards: Sequence[float] | Floats,
    groups: Sequence[str],
    estimator: Estimator,
    penalties: Sequence[float] | Floats | None = None,
) -> Advantages:
    """Advantages from total rewards `[n]` and group ids `[n]`, in the same order.

    `penalties` `[n]` are subtracted from the rewards, but the rewards alone decide which groups have signal. Penalties
    differ in every group; where the rewards are equal, small penalties would become advantages of order one.

    Raises:
        ValueError: there are no rewards, lengths differ, or a reward or penalty is not finite.
    """
    r = check_rewards(rewards, groups)
    together = Groups.of(groups)
    varies = together.varies(r)
    if penalties is not None:
        r = r - check_rewards(penalties, groups, "penalties")
    if estimator == "grpo":
        values = grpo(r, together, varies)
    elif estimator == "dr_grpo":
        values = dr_grpo(r, together, varies)
    elif estimator == "rloo":
        values = rloo(r, together, varies)
    elif estimator == "reinforce_pp":
        values = reinforce_pp(r)
    else:
        values = reinforce_pp_baseline(r, together, varies)
    return Advantages(values, len(varies), int((~varies).sum()))


def grpo(r: Floats, groups: Groups, signal: Flags) -> Floats:
    """Deviation from the group's mean, over the group's standard deviation: easy and hard questions count alike."""
    return dr_grpo(r, groups, signal) / (groups.std(r)[groups.member] + EPS)


def dr_grpo(r: Floats, groups: Groups, signal: Flags) -> Floats:
    """Deviation from the group's mean, 0 without `signal` `[g]`; groups with larger differences count more."""
    return np.where(signal[groups.member], r - groups.mean(r)[groups.member], 0.0)


def rloo(r: Floats, groups: Groups, signal: Flags) -> Floats:
    """Deviation from the mean of the other members: n / (n - 1) times the deviation from the mean of all n."""
    size = groups.size[groups.member]
    return dr_grpo(r, groups, signal) * (size / np.maximum(size - 1, 1))


def reinforce_pp(r: Floats) -> Floats:
    """Deviation from the batch's mean, divided by the batch's standard deviation; 0 if all rewards are equal."""
    if r.max() - r.min() < EPS:
        return np.zeros_like(r)
    return (r - r.mean()) / (r.std() + EPS)


def reinforce_pp_baseline(r: Floats, groups: Groups, signal: Flags) -> Floats:
    """Deviation from the group's mean, divided by the standard deviation of all such deviations in the batch.

    Their mean over the batch is 0, so none is subtracted.
    """
    centred = dr_grpo(r, groups, signal)
    return centred / (centred.std() + EPS)


def groups_with_signal(rewards: Sequence[float] | Floats, groups: Sequence[str]) -> frozenset[str]:
    """Ids of the groups with signal: two or more members whose rewards `[n]` are not all equal.

    This is the filter of dynamic sampling (DAPO, Yu et al. 2025, arXiv 2503.14476, section 3.2), which drops the other
    groups and samples new ones in their place.

    Raises:
        ValueError: as `estimate`.
    """
    r = check_rewards(rewards, groups)
    together = Groups.of(groups)
    return frozenset(str(name) for name in together.names[together.varies(r)])


def check_rewards(rewards: Sequence[float] | Floats, groups: Sequence[str], name: str = "rewards") -> Floats:
    """The rewards `[n]` as float64, one for each entry of `groups`; `name` is their name in error messages.

    Raises:
        ValueError: there are no rewards, lengths differ, or a reward is not finite.
    """
    r = np.asarray(rewards, dtype=np.float64)
    if len(r) == 0 or len(r) != len(groups):
        raise ValueError(f"{name} and groups must have the same length above 0, got {len(r)} and {len(groups)}")
    if not np.isfinite(r).all():
        bad = int(np.flatnonzero(~np.isfinite(r))[0])
        raise ValueError(f"{name}[{bad}]={r[bad]} of group {groups[bad]!r} is not finite; check the reward preset")
    return r
