"""Published numbers: copied without errors, marked as published, with the paper's pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.pool.cards import find_pool, load_cards
from benchmarks.evaluation.published import Published, PublishedRow, published

ROWS = [row for metric in ("em", "f1", "raw_cost") for row in published().rows(metric)]  # type: ignore[arg-type]


@pytest.mark.parametrize("row", [row for row in ROWS if row.average is not None], ids=lambda row: f"{row.label}")
def test_a_row_averages_to_what_the_paper_says(row: PublishedRow) -> None:
    # The average is rounded to the third decimal; the rounding errors of the scores nearly cancel.
    assert sum(row.scores.values()) / len(row.scores) == pytest.approx(row.average, abs=0.00051)


def test_rows_say_that_they_are_published_and_on_which_pool() -> None:
    [router] = [row for row in published().rows("em", base="Qwen2.5-3B-Instruct") if row.table == "Table 1"][-1:]
    assert router.label == "Router-R1-Qwen (Qwen2.5-3B-Instruct; published)"
    assert router.scores["nq"] == 0.388
    assert router.average == 0.416
    assert len(router.pool) == 6
    assert published().source.url.endswith("2506.09033")
    assert all(row.label.endswith("published)") for row in ROWS)


def test_candidates_are_named_as_their_cards_are() -> None:
    six = {card.name for card in load_cards(find_pool(Path("router_r1_six")))}
    unseen = {card.name for card in load_cards(find_pool(Path("router_r1_unseen")))}
    assert set(published().pools["six"]) == six
    assert set(published().pools["eight"]) == six | unseen
    assert set(published().pools["seven"]) < six | unseen


def test_no_row_comes_twice_and_scores_are_possible() -> None:
    keys = [(row.table, row.metric, row.base, row.method, row.alpha, row.pool) for row in ROWS]
    assert len(set(keys)) == len(keys) == 103
    for row in ROWS:
        ceiling = 1 if row.metric != "raw_cost" else 1000
        assert all(0 < score < ceiling for score in row.scores.values())


def test_exact_match_is_never_above_f1() -> None:
    f1 = {(row.base, row.method, row.pool): row.scores for row in published().rows("f1")}
    pairs = [(row, f1[key]) for row in published().rows("em") if (key := (row.base, row.method, row.pool)) in f1]
    assert len(pairs) >= 35
    for row, other in pairs:
        assert all(score <= other[name] for name, score in row.scores.items() if name in other), row.label


def test_a_row_with_a_score_too_few_is_refused() -> None:
    raw = published().model_dump()
    raw["tables"][0]["rows"][0]["scores"] = (0.1,)
    with pytest.raises(ValueError, match="Table 1, Direct: 1 scores for 7 data sets"):
        Published.model_validate(raw)
