"""Every estimator compared with a slow one, the properties that all of them share, and groups without signal."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.losses.advantages import EPS, Estimator, estimate, groups_with_signal

pytestmark = pytest.mark.thorough

ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
BASELINED = tuple(name for name in ESTIMATORS if name != "reinforce_pp")

Pairs = list[tuple[float, str]]


def mean(numbers: list[Fraction]) -> Fraction:
    return sum(numbers, Fraction(0)) / len(numbers)


def std(numbers: list[Fraction]) -> float:
    return math.sqrt(mean([(x - mean(numbers)) ** 2 for x in numbers]))


def slow(pairs: Pairs, estimator: Estimator) -> list[float]:
    """Each advantage by its definition, in exact arithmetic except for the square root."""
    exact = [(Fraction(reward), group) for reward, group in pairs]
    batch = [reward for reward, _ in exact]
    centred, out = [], []
    for place, (reward, group) in enumerate(exact):
        mine = [r for r, g in exact if g == group]
        others = [r for other, (r, g) in enumerate(exact) if g == group and other != place]
        flat = max(mine) - min(mine) < EPS
        centred.append(Fraction(0) if flat else reward - mean(mine))
        if estimator == "reinforce_pp":
            level = max(batch) - min(batch) < EPS
            out.append(0.0 if level else float(reward - mean(batch)) / (std(batch) + EPS))
        elif flat:
            out.append(0.0)
        elif estimator == "grpo":
            out.append(float(reward - mean(mine)) / (std(mine) + EPS))
        elif estimator == "rloo":
            out.append(float(reward - mean(others)))
        else:
            out.append(float(centred[-1]))
    if estimator == "reinforce_pp_baseline":
        return [float(c) / (std(centred) + EPS) for c in centred]
    return out


# Multiples of 1/1000: no spread is so near EPS that rounding would decide whether a group has signal.
reward = st.integers(-3000, 3000).map(lambda n: n / 1000)
pairs_of = st.lists(st.tuples(reward, st.sampled_from("abcd")), min_size=1, max_size=16)
any_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


def values(pairs: Pairs, estimator: Estimator) -> np.ndarray:
    return estimate([r for r, _ in pairs], [g for _, g in pairs], estimator).values


@any_estimator
@settings(max_examples=40)
@given(pairs_of)
def test_equals_a_plain_loop(estimator: Estimator, pairs: Pairs) -> None:
    np.testing.assert_allclose(values(pairs, estimator), slow(pairs, estimator), rtol=1e-9, atol=1e-9)


@any_estimator
@settings(max_examples=30)
@given(pairs_of, st.randoms(use_true_random=False), st.integers(-2, 2))
def test_neither_order_nor_a_constant_added_to_all_rewards_matters(
    estimator: Estimator, pairs: Pairs, random: object, shift: int
) -> None:
    straight = values(pairs, estimator)
    order = list(range(len(pairs)))
    random.shuffle(order)
    moved = values([(pairs[i][0] + shift, pairs[i][1]) for i in order], estimator)
    np.testing.assert_allclose(moved, straight[order], atol=1e-8)


@pytest.mark.parametrize("estimator", BASELINED)
@settings(max_examples=30)
@given(pairs_of, st.sampled_from("abcd"), st.integers(-2, 2))
def test_groups_sum_to_zero_and_do_not_feel_a_shift_of_one_of_them(
    estimator: Estimator, pairs: Pairs, lucky: str, shift: int
) -> None:
    got = values(pairs, estimator)
    for group in "abcd":
        assert sum(v for v, (_, g) in zip(got, pairs, strict=True) if g == group) == pytest.approx(0.0, abs=1e-9)
    shifted = [(r + shift * (g == lucky), g) for r, g in pairs]
    np.testing.assert_allclose(values(shifted, estimator), got, atol=1e-8)


@settings(max_examples=30)
@given(pairs_of)
def test_reinforce_pp_normalises_the_batch(pairs: Pairs) -> None:
    got = values(pairs, "reinforce_pp")
    assert got.mean() == pytest.approx(0.0, abs=1e-9)
    if len({r for r, _ in pairs}) > 1:
        assert got.std() == pytest.approx(1.0, abs=1e-2)  # EPS is large compared with a spread of 1/1000


@any_estimator
def test_groups_without_signal_are_counted_and_get_zero_where_groups_are_compared(estimator: Estimator) -> None:
    # 0.1 + 0.2 differs from 0.3 only by rounding, which is no signal.
    got = estimate([1.0, 0.1 + 0.2, 0.3, 0.0, 1.0], ["one", "equal", "equal", "real", "real"], estimator)
    assert (got.groups, got.groups_without_signal) == (3, 2)
    assert got.share_without_signal == pytest.approx(2 / 3)
    assert got.values[3] < 0 < got.values[4]
    assert got.values[:3].any() == (estimator == "reinforce_pp")


def test_the_estimators_on_one_group_by_hand() -> None:
    rewards = [0.0, 0.0, 0.0, 1.0]
    by_hand: dict[Estimator, list[float]] = {
        "grpo": [-0.57735, -0.57735, -0.57735, 1.73205],
        "dr_grpo": [-0.25, -0.25, -0.25, 0.75],
        "rloo": [-1 / 3, -1 / 3, -1 / 3, 1.0],
        "reinforce_pp": [-0.57735, -0.57735, -0.57735, 1.73205],
        "reinforce_pp_baseline": [-0.57735, -0.57735, -0.57735, 1.73205],
    }
    for estimator, expected in by_hand.items():
        np.testing.assert_allclose(estimate(rewards, ["g"] * 4, estimator).values, expected, atol=1e-5)


def test_a_void_member_left_out_changes_its_own_group_alone() -> None:
    groups = ["a", "a", "a", "b", "b"]
    whole = estimate([1.0, 0.0, 0.0, 1.0, 0.0], groups, "rloo").values
    without = estimate([1.0, 0.0, 1.0, 0.0], ["a", "a", "b", "b"], "rloo").values
    np.testing.assert_allclose(without, [1.0, -1.0, 1.0, -1.0])
    np.testing.assert_allclose(whole[3:], without[2:])


@pytest.mark.parametrize("estimator", BASELINED)
def test_penalties_give_no_group_a_signal_that_its_rewards_don_t(estimator: Estimator) -> None:
    rewards, groups = [1.0, 1.0, 0.0, 1.0], ["equal", "equal", "real", "real"]
    got = estimate(rewards, groups, estimator, penalties=[0.001, 0.002, 0.3, 0.1])
    assert got.groups_without_signal == 1
    assert not got.values[:2].any(), "a KL that differs by a thousandth is no reason to prefer one"
    np.testing.assert_allclose(
        got.values[2:],
        estimate([-0.3, 0.9], ["real"] * 2, estimator).values
        * (
            # the batch's spread includes the group without signal
            2**0.5 if estimator == "reinforce_pp_baseline" else 1
        ),
        atol=1e-4,
    )


def test_groups_with_signal_are_those_whose_rewards_vary() -> None:
    assert groups_with_signal([1, 0, 1, 1, 5], ["a", "a", "b", "b", "c"]) == {"a"}
    assert groups_with_signal([1, 1], ["a", "b"]) == frozenset()


@pytest.mark.parametrize("refused", [lambda r, g: estimate(r, g, "grpo"), groups_with_signal])
@pytest.mark.parametrize(
    ("rewards", "groups", "says"),
    [([], [], "length above 0"), ([1.0], ["a", "b"], "1 and 2"), ([float("nan")], ["a"], r"rewards\[0\]=nan")],
)
def test_refuses(refused: Callable[..., object], rewards: list[float], groups: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        refused(rewards, groups)
