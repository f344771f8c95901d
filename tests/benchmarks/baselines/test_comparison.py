"""The comparison: disjoint questions, rows in order, no unnecessary training, and clear verdicts."""

from __future__ import annotations

import pytest
from router_tables import table_of, topics_table

from benchmarks.baselines import comparison
from benchmarks.baselines.comparison import Row, compare, make_router, sweep
from benchmarks.baselines.expected import NearestNeighbours
from benchmarks.baselines.fixed import BestUtility
from benchmarks.baselines.report import table, verdicts
from benchmarks.baselines.router import RouterError, Terms
from benchmarks.evaluation.means import Outcome, summarise
from benchmarks.evaluation.reply_table import ReplyTable, ReplyTableError

TRAIN, TEST = topics_table(60, 1), topics_table(30, 2)


@pytest.fixture(autouse=True)
def _few_neighbourhoods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NearestNeighbours, "CHOICES", (5, 20))


def test_a_row_for_each_name_and_one_for_each_candidate_alone() -> None:
    rows = compare(TRAIN, TEST, ["alone", "random", "largest", "cheapest_right", "knn"])
    assert [row.name for row in rows] == [
        *("alone:geographer", "alone:musician", "alone:polymath"), "random", "largest", "cheapest_right", "knn",
    ]  # fmt: skip
    for row in rows:
        if row.name == "largest":
            assert row.evaluation is None
            assert "cards tell no size" in row.left_out
        else:
            assert row.evaluation == summarise(row.outcomes)
            assert len(row.outcomes) == len(TEST)
    assert rows[-2].evaluation is not None
    assert rows[-2].evaluation.em == TEST.correct.max(axis=1).mean()


def test_questions_trained_on_are_not_tested_on() -> None:
    with pytest.raises(ReplyTableError, match="60 of 60 test questions are trained on"):
        compare(TRAIN, TRAIN, ["random"])


def test_unknown_names_are_refused_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NearestNeighbours, "fit", lambda *_: pytest.fail("trained"))
    with pytest.raises(RouterError, match="baseline 'knnn': not found; there are alone, random"):
        compare(TRAIN, TEST, ["knn", "knnn"])


def test_a_sweep_trains_again_only_what_learns_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    for kind in (NearestNeighbours, BestUtility):
        fit = kind.fit

        def counted(self: object, train: ReplyTable, fit: object = fit) -> None:
            trained.append(type(self).__name__)
            fit(self, train)  # type: ignore[operator]

        monkeypatch.setattr(kind, "fit", counted)
    rows = sweep(TRAIN, TEST, ["knn", "best_utility"], 0, [0.0, 0.2, 5.0])
    assert trained == ["NearestNeighbours"] + ["BestUtility"] * 3
    assert [(row.name, row.lambda_) for row in rows] == [
        (name, lambda_) for name in ("knn", "best_utility") for lambda_ in (0.0, 0.2, 5.0)
    ]
    costs = [row.evaluation.cost_usd_per_1k_questions for row in rows[:3] if row.evaluation]
    assert costs == sorted(costs, reverse=True)
    (again,) = compare(TRAIN, TEST, ["knn"], lambda_=0.2)
    assert again.outcomes == rows[1].outcomes


def test_a_sweep_of_nothing_is_refused() -> None:
    with pytest.raises(RouterError, match="no λ to try"):
        sweep(TRAIN, TEST, ["knn"], 0, [])


def test_all_names_lead_to_routers() -> None:
    for name in comparison.ROUTERS:
        assert make_router(name, Terms(0.5)).lambda_ == 0.5


def row(name: str, ems: list[float], cost: float, lambda_: float = 0.0) -> Row:
    outcomes = tuple(Outcome(em, em, cost, ("x",)) for em in ems)
    return Row(name, lambda_, outcomes, summarise(outcomes))


@pytest.mark.parametrize(
    ("ems", "cost", "words"),
    [
        ([1.0] * 100, 0.5, "knn at λ=0: better than the best constant in training; 1.000 against 0.500, +0.500"),
        ([1.0] * 100, 0.5, "), at 50% of the price"),
        ([1.0] * 50 + [0.0] * 50, 0.5, "at least as good as the best constant in training"),
        ([1.0] * 49 + [0.0] * 51, 1.0, "NOT as good as the best constant in training"),
        ([0.0] * 100, 0.5, "WORSE than the best constant in training"),
        (
            [1.0] * 100,
            2.0,
            "knn: NOT at equal or lower price, more expensive than the best constant in training at every λ tried",
        ),
    ],
)
def test_it_says_plainly_what_a_router_is_worth(ems: list[float], cost: float, words: str) -> None:
    rows = [row("best_constant_training", [1.0] * 50 + [0.0] * 50, 1.0), row("knn", ems, cost)]
    (verdict,) = verdicts(rows)
    assert words in verdict
    with pytest.raises(RouterError, match="add it to the names"):
        verdicts(rows[1:])


def test_the_table_tells_rows_that_lambda_does_not_change_once() -> None:
    lines = table(sweep(TRAIN, TEST, ["best_constant_training", "largest", "knn"], 0, [0.0, 1.0])).splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| best_constant_training", "any"], ["| largest", "any"], ["| knn", "0"], ["| knn", "1"],
    ]  # fmt: skip
    assert len({line.count("|") for line in lines}) == 1


def test_ties_go_to_the_cheaper() -> None:
    train = table_of([[1, 1]] * 20, [[0.2, 0.1]] * 20)
    (found,) = compare(train.take(range(10)), train.take(range(10, 20)), ["knn"])
    assert {outcome.asked for outcome in found.outcomes} == {("model-1",)}
