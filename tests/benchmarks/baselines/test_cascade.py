"""The cascade: its plan is the best on the training questions, and every one asked is paid for."""

from __future__ import annotations

import numpy as np
import pytest
from router_tables import table_of, topics_table

from benchmarks.baselines.cascade import Cascade
from benchmarks.baselines.router import Terms, cost_scale
from benchmarks.evaluation.means import summarise

TRAIN, TEST = topics_table(200, 1), topics_table(120, 2)


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    router = Cascade(Terms(0.1))
    router.fit(TRAIN)
    return router


def test_it_is_better_than_any_alone_where_replies_tell_their_doubts(cascade: Cascade) -> None:
    found = summarise(cascade.play(TEST))
    assert found.em > 0.9  # the best alone: 0.7
    assert found.calls_per_question > 1


def test_cheap_ones_are_asked_first_and_all_are_paid(cascade: Cascade) -> None:
    columns = cascade.plan().columns
    means = TRAIN.cost_usd.mean(axis=0)
    assert list(means[list(columns)]) == sorted(means[list(columns)])
    for row, (asked, outcome) in enumerate(zip(cascade.route(TEST), cascade.play(TEST), strict=True)):
        assert asked == columns[: len(asked)]
        assert outcome.cost_usd == pytest.approx(TEST.cost_usd[row, list(asked)].sum())
        assert outcome.em == TEST.correct[row, asked[-1]]


def test_the_worth_of_a_plan_is_the_mean_utility_of_following_it(cascade: Cascade) -> None:
    costs = TRAIN.cost_usd / cost_scale(TRAIN)
    plan = ((0, 2, 1), (0.4, 0.6))
    expected = []
    for row in range(len(TRAIN)):
        paid = 0.0
        for column, threshold in zip(plan[0], (*plan[1], -1.0), strict=True):
            paid += costs[row, column]
            if cascade._scores[row, column] >= threshold:
                expected.append(TRAIN.correct[row, column] - 0.1 * paid)
                break
    assert cascade._worth(plan[0], costs)(plan[1]) == pytest.approx(np.mean(expected))


def test_a_changed_lambda_changes_the_plan_without_training(cascade: Cascade) -> None:
    before = cascade.plan()
    cascade.lambda_ = 10.0
    assert cascade.plan().columns == (0,)
    assert cascade.chosen() == "geographer"
    cascade.lambda_ = 0.1
    assert cascade.plan() == before


def test_replies_that_are_all_right_leave_nothing_to_learn() -> None:
    router = Cascade(Terms())
    router.fit(table_of([[1, 0]] * 20, [[0.1, 0.2]] * 20))
    assert set(router.route(table_of([[1, 0]], [[0.1, 0.2]]))) == {(0,)}
