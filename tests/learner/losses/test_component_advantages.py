"""Component-wise advantages compared with a plain loop, and the purpose of each step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.losses.advantages import EPS
from learner.losses.component_advantages import component_advantages


def slow(
    parts: dict[str, list[float]], groups: list[str], datasets: list[str], weights: dict[str, float]
) -> list[float]:
    """The docstring's formulas, one trajectory at a time."""

    def mixed(i: int) -> tuple[float, float]:
        """Weighted sum of normalised components, and the spread of the group."""
        total, spread = 0.0, 0.0
        for name, r in parts.items():
            mine = [r[j] for j in range(len(groups)) if groups[j] == groups[i]]
            if max(mine) - min(mine) < EPS:
                continue
            mean = math.fsum(mine) / len(mine)
            std = math.sqrt(math.fsum((x - mean) ** 2 for x in mine) / len(mine))
            total += weights.get(name, 1.0) * (r[i] - mean) / (std + EPS)
            spread += (weights.get(name, 1.0) * std) ** 2
        return total, math.sqrt(spread)

    raw = [mixed(i) for i in range(len(groups))]
    out = []
    for i, (total, spread) in enumerate(raw):
        peers = [t * s for j, (t, s) in enumerate(raw) if datasets[j] == datasets[i] and s > 0]
        rms = math.sqrt(math.fsum(a * a for a in peers) / len(peers)) if peers else 0.0
        out.append(total * spread / (rms + EPS))
    return out


# A group's dataset is its first letter.
row = st.tuples(st.integers(-30, 30), st.integers(-30, 30), st.sampled_from(["x1", "x2", "y1", "y2"]))
rows_of = st.lists(row, min_size=1, max_size=16)
Rows = list[tuple[int, int, str]]


def columns(rows: Rows) -> tuple[dict[str, list[float]], list[str], list[str]]:
    parts = {"outcome": [a / 10 for a, _, _ in rows], "cost": [b / 1000 for _, b, _ in rows]}
    return parts, [g for _, _, g in rows], [g[0] for _, _, g in rows]


@settings(max_examples=60)
@given(rows_of, st.sampled_from([{}, {"cost": 0.3}, {"cost": 0.0}, {"outcome": 2.0, "cost": 5.0}]))
def test_equals_a_plain_loop(rows: Rows, weights: dict[str, float]) -> None:
    parts, groups, datasets = columns(rows)
    got = component_advantages(parts, groups, datasets, weights)
    np.testing.assert_allclose(got.values, slow(parts, groups, datasets, weights), rtol=1e-8, atol=1e-8)


@settings(max_examples=30)
@given(rows_of, st.randoms(use_true_random=False), st.integers(-3, 3))
def test_sums_to_zero_and_feels_neither_order_nor_shift(rows: Rows, random: object, shift: int) -> None:
    parts, groups, datasets = columns(rows)
    got = component_advantages(parts, groups, datasets).values
    for group in set(groups):
        assert sum(v for v, g in zip(got, groups, strict=True) if g == group) == pytest.approx(0.0, abs=1e-8)
    order = list(range(len(rows)))
    random.shuffle(order)
    moved = component_advantages(
        {name: [r[i] + shift for i in order] for name, r in parts.items()},
        [groups[i] for i in order],
        [datasets[i] for i in order],
    ).values
    np.testing.assert_allclose(moved, got[order], atol=1e-6)


def test_a_component_that_does_not_vary_adds_nothing() -> None:
    groups, datasets = ["a", "a", "b", "b"], ["d"] * 4
    alone = component_advantages({"outcome": [1, 0, 1, 1]}, groups, datasets)
    beside = component_advantages({"outcome": [1, 0, 1, 1], "format": [-1.0] * 4}, groups, datasets)
    np.testing.assert_array_equal(beside.values, alone.values)
    np.testing.assert_allclose(alone.values, [1, -1, 0, 0], atol=1e-4)
    assert (beside.groups, beside.groups_without_signal) == (2, 1)


def test_a_weight_of_zero_is_as_good_as_no_component() -> None:
    parts = {"outcome": [1.0, 0.0, 0.5], "cost": [0.0, 3.0, 9.0]}
    without = component_advantages({"outcome": parts["outcome"]}, ["a"] * 3, ["d"] * 3)
    zero = component_advantages(parts, ["a"] * 3, ["d"] * 3, {"cost": 0.0})
    np.testing.assert_array_equal(zero.values, without.values)
    assert component_advantages(parts, ["a"] * 3, ["d"] * 3, dict.fromkeys(parts, 0.0)).groups_without_signal == 1


def test_parts_that_cancel_in_the_total_are_told_apart() -> None:
    """One member is right and expensive, the other wrong and cheap: their totals are equal and give no signal."""
    got = component_advantages(
        {"outcome": [1.0, 0.0], "cost": [0.0, 1.0]}, ["a", "a"], ["d", "d"], {"outcome": 2.0, "cost": 1.0}
    )
    np.testing.assert_allclose(got.values, [1, -1], atol=1e-4)


def test_an_undecided_group_outweighs_one_that_hardly_differs() -> None:
    got = component_advantages({"outcome": [1, 0, 0.51, 0.5]}, ["wide", "wide", "narrow", "narrow"], ["d"] * 4)
    assert abs(got.values[0] / got.values[2]) == pytest.approx(100, rel=1e-2)


def test_datasets_are_brought_to_one_scale_even_where_few_groups_have_signal() -> None:
    rewards = [100.0, 0.0, 0.1, 0.0, 7.0, 7.0, 7.0, 7.0]
    groups = ["a", "a", "b", "b", "c", "c", "d", "d"]
    datasets = ["loud", "loud", "soft", "soft", "soft", "soft", "soft", "soft"]
    got = component_advantages({"outcome": rewards}, groups, datasets)
    np.testing.assert_allclose(got.values, [1, -1, 1, -1, 0, 0, 0, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"components": {}}, "components is empty"),
        ({"components": {"em": [1.0]}}, "1 and 2"),
        ({"components": {"em": [1.0, float("inf")]}}, r"component 'em'.*inf"),
        ({"datasets": ["d"]}, "got 1 for 2"),
        ({"datasets": ["d", "e"]}, "group 'a' lies in datasets 'd' and 'e'"),
        ({"weights": {"style": 1.0}}, r"names 'style'; the reward's components are \['em'\]"),
        ({"weights": {"em": -1.0}}, r"component_weights\['em'\]=-1.0"),
        ({"weights": {"em": float("nan")}}, r"component_weights\['em'\]=nan"),
    ],
)
def test_refuses(change: dict, says: str) -> None:
    sound: dict = {"components": {"em": [1.0, 0.0]}, "groups": ["a", "a"], "datasets": ["d", "d"], "weights": {}}
    with pytest.raises(ValueError, match=says):
        component_advantages(**(sound | change))
