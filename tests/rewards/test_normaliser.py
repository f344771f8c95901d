"""The sliding normaliser: it gives numpy's results at every step, and resumes from a saved state."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.normaliser import WINDOW, SlidingNormaliser


def by_numpy(costs: list[float]) -> float:
    """The last cost's reward, computed from the whole history."""
    roots = np.sqrt(np.array(costs[-WINDOW:]))
    low, high = (np.percentile(roots, q) for q in (5, 95)) if len(roots) > 1 else (roots[0], roots[0])
    return 0.5 if high - low < 1e-8 else 1.0 - float(np.clip((roots[-1] - low) / (high - low), 0.0, 1.0))


@given(st.lists(st.one_of(st.floats(0, 1e6), st.sampled_from([0.0, 37.6, 37.6 + 1e-7])), min_size=1, max_size=30))
def test_it_is_what_numpy_computes(costs: list[float]) -> None:
    normaliser = SlidingNormaliser()
    assert [normaliser(cost) for cost in costs] == [by_numpy(costs[: i + 1]) for i in range(len(costs))]


def test_only_the_latest_thousand_count() -> None:
    rng = random.Random(0)
    costs = [rng.choice((0.0, rng.uniform(0, 900))) for _ in range(WINDOW + 200)]
    normaliser = SlidingNormaliser()
    found = [normaliser(cost) for cost in costs]
    assert found[-200:] == [by_numpy(costs[: i + 1]) for i in range(WINDOW, WINDOW + 200)]


def test_it_goes_on_from_a_saved_state() -> None:
    whole, first = SlidingNormaliser(), SlidingNormaliser()
    costs = [random.Random(1).uniform(0, 9) for _ in range(50)]
    expected = [whole(cost) for cost in costs]
    begun = [first(cost) for cost in costs[:20]]
    resumed = SlidingNormaliser()
    resumed.restore(json.loads(json.dumps(first.state())))
    assert begun + [resumed(cost) for cost in costs[20:]] == expected


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
def test_an_impossible_cost_is_refused_and_does_not_enter(cost: float) -> None:
    normaliser = SlidingNormaliser()
    with pytest.raises(ValueError, match="cost="):
        normaliser(cost)
    assert normaliser.state() == {"window": []}


@pytest.mark.parametrize("window", [None, ["x"], [float("nan")], [-1.0], [0.0] * (WINDOW + 1), [True]])
def test_a_damaged_state_is_refused(window: object) -> None:
    with pytest.raises(ValueError, match="window"):
        SlidingNormaliser().restore({"window": window})
