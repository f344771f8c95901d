"""Component-wise advantages: compares each named component of the reward on its own, then combines the results.

After ReCal, Yu et al. 2026 (arXiv 2606.12479), whose abstract names the steps: advantages per component, weighting
by variance, normalisation per dataset. We did not have its equations; these are ours. For trajectory i of group g
in dataset d, with components c of weight w_c:

    z_ic = (r_ic - mean_g r_c) / std_g r_c         0 if r_c does not vary in g
    s_g  = sqrt(sum over c of (w_c std_g r_c)^2)   the group's spread: groups with undecided outcomes count more
    a_i  = s_g * sum over c of w_c z_ic
    A_i  = a_i / rms of a over the trajectories of d whose group has signal

Within a group, a component with small numbers counts as much as one with large numbers. Only w_c sets their balance:
a preset's factor on a component (alpha) cancels in z_ic. A group with nearly equal rewards counts less than one with
different rewards, and a dataset with large rewards does not outweigh the others. Advantages sum to 0 in each group.
The rms leaves groups without signal out, so that a dataset whose questions are nearly all solved is not amplified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from learner.losses.advantages import EPS, Advantages, Floats, Groups, check_rewards


def component_advantages(
    components: Mapping[str, Sequence[float] | Floats],
    groups: Sequence[str],
    datasets: Sequence[str],
    weights: Mapping[str, float] | None = None,
) -> Advantages:
    """Advantages from named reward components, each `[n]`, and group and dataset ids `[n]`, in the same order.

    Args:
        weights: of the components; a component without one has weight 1.

    Raises:
        ValueError: there are no components or trajectories, lengths differ, a component is not finite, a weight
            names no component or is negative or not finite, or a group lies in two datasets.
    """
    if not components:
        raise ValueError("components is empty; the reward preset must give at least one named part")
    w = _checked_weights(components, weights or {})
    parts = {name: check_rewards(values, groups, f"component {name!r}") for name, values in components.items()}
    together = Groups.of(groups)
    _check_datasets(together, datasets)
    home = Groups.of(datasets)
    mixed, spread = np.zeros(len(groups)), np.zeros(len(together.names))
    for name, r in parts.items():
        varies = together.varies(r)
        std = np.where(varies, together.std(r), 0.0)
        z = np.where(varies[together.member], r - together.mean(r)[together.member], 0.0) / (std[together.member] + EPS)
        mixed += w[name] * z
        spread += (w[name] * std) ** 2
    calibrated = mixed * np.sqrt(spread)[together.member]
    signal = spread > 0
    counted = signal[together.member]
    trained = np.maximum(np.bincount(home.member, counted), 1)
    rms = np.sqrt(np.bincount(home.member, calibrated**2) / trained)
    return Advantages(calibrated / (rms[home.member] + EPS), len(signal), int((~signal).sum()))


def _checked_weights(components: Mapping[str, object], weights: Mapping[str, float]) -> dict[str, float]:
    for name, weight in weights.items():
        if name not in components:
            raise ValueError(f"component_weights names {name!r}; the reward's components are {sorted(components)}")
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError(f"component_weights[{name!r}]={weight} must be a number of at least 0")
    return {name: float(weights.get(name, 1.0)) for name in components}


def _check_datasets(groups: Groups, datasets: Sequence[str]) -> None:
    if len(datasets) != len(groups.member):
        raise ValueError(f"datasets must have one entry per trajectory, got {len(datasets)} for {len(groups.member)}")
    first: dict[int, str] = {}
    for place, dataset in zip(groups.member.tolist(), datasets, strict=True):
        if first.setdefault(place, dataset) != dataset:
            raise ValueError(
                f"group {str(groups.names[place])!r} lies in datasets {first[place]!r} and {dataset!r}; "
                "all members of a group must answer one question"
            )
