"""Group advantages against a plain loop, and the groups that carry no signal."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.advantages import EPS, group_advantages


def slow(rewards: list[float], groups: list[str], normalize_std: bool) -> list[float]:
    out = []
    for reward, group in zip(rewards, groups, strict=True):
        mine = [r for r, g in zip(rewards, groups, strict=True) if g == group]
        if max(mine) - min(mine) < EPS:
            out.append(0.0)
            continue
        mean = math.fsum(mine) / len(mine)
        std = math.sqrt(math.fsum((r - mean) ** 2 for r in mine) / len(mine))
        out.append((reward - mean) / (std + EPS) if normalize_std else reward - mean)
    return out


rows = st.lists(st.tuples(st.floats(-3, 3), st.sampled_from("abcd")), min_size=1, max_size=30)


@given(rows, st.booleans())
def test_equals_a_plain_loop(pairs: list[tuple[float, str]], normalize_std: bool) -> None:
    rewards, groups = [p[0] for p in pairs], [p[1] for p in pairs]
    got = group_advantages(rewards, groups, normalize_std=normalize_std)
    # Near EPS the division amplifies rounding: 1e-16 / 1e-6.
    np.testing.assert_allclose(got.values, slow(rewards, groups, normalize_std), rtol=1e-6, atol=1e-6)


@given(rows, st.randoms())
def test_order_of_arrival_changes_nothing(pairs: list[tuple[float, str]], random: object) -> None:
    order = list(range(len(pairs)))
    random.shuffle(order)
    straight = group_advantages([p[0] for p in pairs], [p[1] for p in pairs]).values
    mixed = group_advantages([pairs[i][0] for i in order], [pairs[i][1] for i in order]).values
    np.testing.assert_allclose(mixed, straight[order], rtol=1e-6, atol=1e-6)


def test_groups_without_signal_get_zero_and_are_counted() -> None:
    # 0.1 + 0.2 differs from 0.3 by rounding alone: that is no signal.
    got = group_advantages([1.0, 0.1 + 0.2, 0.3, 0.0, 1.0], ["one", "equal", "equal", "real", "real"])
    np.testing.assert_allclose(got.values, [0, 0, 0, -1, 1], atol=1e-5)
    assert (got.groups, got.groups_without_signal) == (3, 2)
    assert got.share_without_signal == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("rewards", "groups", "says"),
    [([], [], "length above 0"), ([1.0], ["a", "b"], "1 and 2"), ([float("nan")], ["a"], r"rewards\[0\]=nan")],
)
def test_refuses(rewards: list[float], groups: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        group_advantages(rewards, groups)
