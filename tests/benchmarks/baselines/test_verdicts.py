"""The verdicts of an evaluation: a clear sentence on its policy and on each router that learns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from made_items import item

from benchmarks.baselines import report
from benchmarks.baselines.comparison import sweep
from benchmarks.baselines.contests import recorded_contest
from benchmarks.baselines.rows import BaselineRow, make_rows, planned_rows
from benchmarks.baselines.verdicts import verdicts
from benchmarks.evaluation.item import Item
from benchmarks.evaluation.measure import HOLDS
from benchmarks.evaluation.row_summary import Against, against, summarise_row

FEW = 199


def made(row: str, right: int, usd: float) -> list[Item]:
    """A row of 100 questions; the first `right` of them are answered rightly."""
    return [item(row, f"q{n:03}", float(n < right), cost_usd=usd) for n in range(100)]


def verdict(
    rows: Sequence[list[Item]],
    baselines: Sequence[BaselineRow] = (),
    policies: Sequence[str] = (),
    resamples: int = FEW,
) -> list[str]:
    by_row = {items[0].row: items for items in rows}

    def compare(reference: str, *names: str) -> dict[str, Against]:
        those = {name: by_row[name] for name in (reference, *(names or by_row))}
        return against(those, reference, resamples=resamples)

    summaries = [summarise_row(name, items, resamples=resamples) for name, items in by_row.items()]
    return verdicts(summaries, baselines, policies, compare)


SINGLE = made("best_constant_training", 50, 0.002)


@pytest.mark.parametrize(
    ("right", "usd", "said"),
    [
        (90, 0.001, "knn at λ=0.1: better than the best constant in training; 0.900 against 0.500, +0.400 ("),
        (
            50,
            0.002,
            "knn at λ=0.1: at least as good as the best constant in training, but the interval includes 0;",
        ),
        (49, 0.002, "knn at λ=0.1: NOT as good as the best constant in training, but the interval includes 0;"),
        (10, 0.001, "knn at λ=0.1: WORSE than the best constant in training; 0.100 against 0.500, -0.400 ("),
        (
            90,
            0.003,
            "knn: NOT at equal or lower price, more expensive than the best constant in training at every λ tried",
        ),
    ],
)
def test_each_router_that_learns_is_judged_at_its_best_lambda_that_is_no_dearer(
    right: int, usd: float, said: str
) -> None:
    baselines = [BaselineRow("knn", 0.0), BaselineRow("knn", 0.1), BaselineRow("best_utility", 0.0)]
    rows = [SINGLE, made("knn", 100, 0.004), made("knn, λ=0.1", right, usd), made("best_utility", 70, 0.001)]
    [found] = verdict(rows, baselines)
    assert found.startswith(said)


def test_by_each_embedding_it_is_another_router() -> None:
    baselines = [BaselineRow("knn", 0.0), BaselineRow("knn", 0.5, "bert")]
    found = verdict([SINGLE, made("knn", 60, 0.001), made("knn, bert, λ=0.5", 40, 0.001)], baselines)
    assert [each.partition(";")[0] for each in found] == [
        "knn at λ=0: better than the best constant in training",
        "knn, bert at λ=0.5: WORSE than the best constant in training",
    ]  # fmt: skip


def test_without_a_best_constant_there_is_none_on_routers() -> None:
    assert verdict([made("random", 60, 0.001)], [BaselineRow("random", 0.0)]) == []
    [found] = verdict([made("knn", 60, 0.001)], [BaselineRow("knn", 0.0)])
    assert found == "no verdict: the rows hold no 'best_constant_training' to compare with; add it to the names"


@pytest.mark.parametrize(
    ("right", "usd", "said"),
    [
        (80, 0.001, ["the best of the rows except the cheapest right candidate, +0.200 (", "against cot",
                     "the best of those rows that cost no more, +0.300 (", "against random",
                     "+0.300 (", "against the best constant in training", "at equal or lower price"]),
        (61, 0.002, ["the best of the rows except the cheapest right candidate, but the interval includes 0, "
                     "+0.010 (", "against cot", "the best of those rows that cost no more, +0.110 (",
                     "against best_constant_training",
                     "+0.110 (", "against the best constant in training", "at equal or lower price"]),
        (55, 0.003, ["NOT the best of the rows except the cheapest right candidate, -0.050 (", "against cot",
                     "+0.050 (", "against the best constant in training", "NOT at equal or lower price"]),
    ],
)  # fmt: skip
def test_the_policy_is_judged_against_every_row_but_the_cheapest_right(right: int, usd: float, said: list[str]) -> None:
    rows = [made("policy", right, usd), SINGLE, made("cot", 60, 0.003), made("random", 50, 0.001)]
    [found] = verdict([*rows, made("cheapest_right", 100, 0.001)], policies=["policy"])
    *clauses, price = found.removeprefix("policy: ").split("; ")
    for clause, begins, ends in zip(clauses, said[:-1:2], said[1:-1:2], strict=True):
        assert clause.startswith(begins)
        assert clause.endswith(f"by Holm, {ends}")
    assert price == f"{said[-1]} than the best constant in training, {1000 * usd:g} against 2 USD per 1,000 questions"


def test_a_policy_that_is_cheaper_than_every_row_is_said_to_be() -> None:
    [found] = verdict([made("policy", 40, 0.001), SINGLE], policies=["policy"])
    assert found.split("; ")[1] == "cheaper than all of them"
    assert found.startswith("policy: NOT the best of the rows except the cheapest right candidate, -0.100 (")


def test_where_nobody_is_right_nothing_is_told() -> None:
    [found] = verdict([made("policy", 0, 0.001), made("best_constant_training", 0, 0.002)], policies=["policy"])
    assert found.startswith("no verdict: no row was right on any question")


def test_its_own_tokens_are_of_the_policys_price_and_what_can_not_be_compared_is_named() -> None:
    own = [replace(each, policy_usd=0.002, held=None) for each in made("policy", 80, 0.001)]
    strange = [replace(each, measure=HOLDS, held=None) for each in made("alone:a", 90, 0.001)]
    [found] = verdict([own, SINGLE, strange], policies=["policy"])
    assert "NOT at equal or lower price than the best constant in training, 3 against 2 USD" in found
    assert found.endswith("; not comparable with alone:a")
    assert found.startswith("policy: the best of the rows except the cheapest right candidate, +0.300 (")


def test_a_policy_alone_is_not_judged_and_one_without_a_best_constant_has_no_price_to_beat() -> None:
    assert verdict([made("policy", 80, 0.001)], policies=["policy"]) == []
    [found] = verdict([made("policy", 80, 0.001), made("cot", 60, 0.0)], policies=["policy"])
    assert found.endswith("; there is no row 'best_constant_training' to compare its price with")


def test_an_evaluation_says_of_recorded_replies_what_the_comparison_of_baselines_says(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    replies = [
        {"id": f"q{n}", "dataset": "nq", "question": f"{word} number {n}", "model": model, "response": "x",
         "correct": n % 5 > 0 and (model == "ChatGPT-4") == (word == "where")}
        for n in range(100) for word in ("where" if n % 3 else "who",) for model in ("ChatGPT-4", "BingChat")
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in replies), encoding="utf-8")
    contest = recorded_contest(file, (), "full")
    names, lambdas = ("best_constant_training", "knn"), (0.0, 0.1, 1.0)
    planned = planned_rows(names, lambdas, contest.train)
    items = [items for _, items, _ in make_rows(contest, planned, 0)]
    found = report.verdicts(sweep(contest.train, contest.test, names, 0, lambdas))
    assert found == verdict(items, planned, resamples=9999)
    assert len(found) == 1
