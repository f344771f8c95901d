"""The pool table: rows of one policy with several pools, against their own bounds and against the pool as trained."""

from __future__ import annotations

import pytest
from made_items import item, made_row

from benchmarks.evaluation.means import EvaluationError
from benchmarks.evaluation.pool_table import Played, Pool, PoolTable, pool_rows, pool_tables, share_of
from benchmarks.evaluation.row_summary import against
from benchmarks.evaluation.statistics import holm
from benchmarks.evaluation.tables import markdown

FEW = 199  # resamples
SETS = {"nq": 40, "popqa": 25}


def test_a_share_is_of_macro_averages_over_the_questions_that_both_answered() -> None:
    ours = [item(question=f"q{n}", em=float(n % 2)) for n in range(10)]  # 0.5
    ours += [item(question=f"q{n}", em=float(n == 0), dataset="popqa") for n in range(5)]  # 0.2
    ours += [item(question="q0", em=1.0, dataset="popqa", sample=1), item(question="lost", em=1.0, dataset="popqa")]
    ideal = [item("cheapest_right", f"q{n}", 1.0) for n in range(12)]
    ideal += [item("cheapest_right", f"q{n}", 0.8, dataset="popqa") for n in range(5)]
    found = share_of(ours, ideal, FEW)
    assert found is not None
    assert (found.mean, found.questions) == (pytest.approx(((0.5 + 0.2) / 2) / 0.9), 15)
    assert share_of(ours, [item("cheapest_right", "other")], FEW) is None
    assert share_of(ours, [item("cheapest_right", f"q{n}", 0.0) for n in range(10)], FEW) is None


def test_p_values_are_adjusted_among_rows_by_kind_of_comparison() -> None:
    trained = made_row("policy", 0, SETS)
    others = [made_row("policy", seed, SETS) for seed in (1, 2, 3)]
    best = made_row("best", 9, SETS)
    played = [Played("seen", "policy", trained, 0, best_constant_training=best)]
    played += [
        Played(f"without:{n}", "policy", items, n, as_trained=trained, best_constant_training=best)
        for n, items in enumerate(others)
    ]
    rows = pool_rows(played, FEW)
    alone = [against({"ours": items, "theirs": trained}, "theirs", resamples=FEW)["ours"] for items in others]
    told = [row.against_trained for row in rows]
    assert told[0] is None
    assert [t.p_holm for t in told if t] == holm([each.comparison.p_value for each in alone])
    assert [t.comparison for t in told if t] == [each.comparison for each in alone]
    assert all(row.against_best_constant_training for row in rows)
    assert [row.summary.lost for row in rows] == [0, 0, 1, 2]
    assert [row.cheapest_right_em for row in rows] == [None] * 4


def test_the_table_names_pools_and_leaves_open_what_is_not_known() -> None:
    prices = {"price_in_usd_per_mtok": 1.0, "price_out_usd_per_mtok": 2.5}
    cards = {"alpha": {"model": "alpha"} | prices, "b|eta": {"model": "b"} | prices}
    ideal = [item("cheapest_right", f"q{n}", 1.0) for n in range(4)]
    alone = [item("best_constant_training", f"q{n}", 0.5, calls=[("b|eta", "ok")]) for n in range(4)]
    mine = [item(question=f"q{n}", em=0.75, calls=[("b|eta", "ok"), ("alpha", "ok")]) for n in range(4)]
    rows = pool_rows([Played("seen", "policy", mine, 0, (), ideal, alone), Played("x", "policy", mine, 1, mine)], FEW)
    pools = [Pool("seen", "abc", cards), Pool("x", "def", {"alpha": cards["alpha"]})]
    lines = "\n".join(map(markdown, pool_tables(PoolTable(pools, rows)))).splitlines()
    assert "| Candidate | seen, abc | x, def |" in lines
    assert "| alpha | 1 / 2.5 | 1 / 2.5 |" in lines
    assert "| b\\|eta | 1 / 2.5 | – |" in lines
    [seen] = [line for line in lines if line.startswith("| seen |")]
    assert "| 100.0 | 1 | 75.0 (75.0 – 75.0) | b\\|eta | 50.0 | 1 | +25.0 (+25.0 to +25.0) |" in seen
    [other] = [line for line in lines if line.startswith("| x |")]
    assert "| 1 | – | – | – | – | – | – | – | – | +0.0 (+0.0 to +0.0) | 1 |" in other
    assert "| alpha | 50.0 | 50.0 |" in lines


def test_a_pool_without_an_item_is_no_row() -> None:
    with pytest.raises(EvaluationError, match=r"policy with unseen: nothing to evaluate, 3 episodes failed"):
        pool_rows([Played("unseen", "policy", [], 3)], FEW)
