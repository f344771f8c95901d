"""Fixed routers: chosen on the training table alone, and the cheapest right candidate, whom nobody beats."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from router_tables import NAMES, card, table_of, topics_table

from benchmarks.baselines.fixed import (
    Alone,
    BestConstantTraining,
    BestUtility,
    Cheapest,
    CheapestRight,
    Largest,
    Uniform,
    billions,
)
from benchmarks.baselines.router import RouterError, Terms, cost_scale, utilities
from benchmarks.evaluation.means import summarise

TRAIN = table_of([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]], [[0.4, 0.2, 0.1]] * 4)
TEST = table_of([[0, 1, 1], [0, 0, 1]], [[0.1, 0.2, 0.4]] * 2)


def test_what_is_cheap_or_good_is_decided_in_training() -> None:
    for kind, name in (
        (Cheapest, "model-2"),
        (BestConstantTraining, "model-1"),
    ):  # two are right thrice: the cheaper one
        router = kind(Terms())
        router.fit(TRAIN)
        assert router.chosen() == name
        assert {outcome.asked for outcome in router.play(TEST)} == {(name,)}


def test_utility_is_correctness_less_cost_in_units_of_the_dearest() -> None:
    assert cost_scale(TRAIN) == pytest.approx(0.4)
    assert utilities(TRAIN, 0.5)[0] == pytest.approx([1 - 0.5, -0.25, -0.125])
    assert cost_scale(table_of([[1.0]], [[0.0]])) == 1.0
    chosen = []
    for lambda_ in (0.0, 10.0):
        router = BestUtility(Terms(lambda_))
        router.fit(TRAIN)
        chosen.append(router.chosen())
    assert chosen == ["model-1", "model-2"]


@pytest.mark.parametrize("lambda_", [-0.1, float("inf"), float("nan")])
def test_a_lambda_out_of_range_is_refused(lambda_: float) -> None:
    with pytest.raises(RouterError, match="must be at least 0 and finite"):
        Terms(lambda_)


def test_one_alone() -> None:
    router = Alone(Terms(), "model-2")
    router.fit(TRAIN)
    assert summarise(router.play(TEST)).em == 1.0
    with pytest.raises(
        RouterError, match="candidate 'nobody' is not in the table; there are model-0, model-1, model-2"
    ):
        Alone(Terms(), "nobody").fit(TRAIN)


def test_random_is_even_and_seeded() -> None:
    table = topics_table(600, 0)
    routes = Uniform(Terms(seed=1)).route(table)
    assert routes == Uniform(Terms(seed=1)).route(table) != Uniform(Terms(seed=2)).route(table)
    assert all(150 < count < 250 for count in Counter(routes).values())
    assert Uniform(Terms(seed=1)).route(table.take([5])) == [routes[5]]


TABLES = hnp.arrays(np.float64, (6, 3), elements=st.sampled_from([0.0, 0.5, 1.0]))
COSTS = hnp.arrays(np.float64, (6, 3), elements=st.sampled_from([0.1, 0.2, 0.3]))


@given(TABLES, COSTS, st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_nobody_beats_the_cheapest_right_nor_is_as_good_for_less(
    correct: np.ndarray, costs: np.ndarray, others: list[int]
) -> None:
    table = table_of(correct, costs)
    for row, (outcome, other) in enumerate(zip(CheapestRight(Terms()).play(table), others, strict=True)):
        assert outcome.em >= correct[row, other]
        assert outcome.em > correct[row, other] or outcome.cost_usd <= costs[row, other]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3-chatqa-1.5-70b", 70),
        ("Mixtral-8x22B-Instruct", 176),
        ("qwen2.5-7b-instruct", 7),
        ("Qwen2.5-1.5B", 1.5),
        ("llama-3.3-nemotron-super-49b-v1", 49),
        ("ChatGPT-4", None),
        ("mistral-v0.3", None),
        ("a2b3 web", None),
    ],
)
def test_sizes_are_read_from_names(name: str, expected: float | None) -> None:
    assert billions(card(name)) == expected


def test_the_largest_needs_all_sizes() -> None:
    assert billions(card("x", model="org/y-3b")) == 3
    assert billions(card("x", descriptor="A 32B model of 2025.")) == 32
    router = Largest(Terms())
    router.fit(table_of([[0, 1]], [[1, 1]], ("small-8b", "large-70b")))
    assert router.chosen() == "large-70b"
    with pytest.raises(RouterError, match="3 of 3 cards tell no size, such as geographer's"):
        router.fit(topics_table(5, 0))
    assert NAMES[0] == "geographer"
