"""Row summaries: compared with sums computed in another way, and with few or no items."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_items import item, made_row
from scipy import stats

from benchmarks.evaluation.item import Item
from benchmarks.evaluation.means import EvaluationError
from benchmarks.evaluation.measure import HOLDS, JUDGED
from benchmarks.evaluation.row_summary import against, pass_at, summarise_row
from benchmarks.evaluation.statistics import holm

SETS = {"nq": 40, "popqa": 25, "musique": 10}
FEW = 499  # resamples


def frame(items: list[Item]) -> dict[str, np.ndarray]:
    """For each set, each question's mean over samples, computed directly from the items."""
    found = {}
    for dataset in SETS:
        ids = sorted({i.question for i in items if i.dataset == dataset})
        found[dataset] = np.array(
            [np.mean([i.em for i in items if (i.dataset, i.question) == (dataset, name)]) for name in ids]
        )
    return found


@pytest.mark.parametrize("samples", [1, 3])
def test_numbers_are_those_of_another_computation(samples: int) -> None:
    items = made_row("policy", 1, SETS, samples)
    row = summarise_row("policy", items[::-1], resamples=FEW)
    by_set = frame(items)
    assert row.em.mean == pytest.approx(np.mean([scores.mean() for scores in by_set.values()]))
    assert row.em_all == pytest.approx(np.concatenate(list(by_set.values())).mean())
    means = [np.mean([i.cost_usd for i in items if i.dataset == name]) for name in SETS]
    assert row.usd_per_1k == pytest.approx(1000 * np.mean(means))
    calls = [model for i in items for model, _ in i.calls]
    assert row.call_share == pytest.approx({name: n / len(calls) for name, n in Counter(calls).items()})
    assert row.entropy == pytest.approx(stats.entropy(list(Counter(calls).values())))
    statuses = Counter(status for i in items for _, status in i.calls)
    assert (row.ended.refusals, row.ended.failed_calls) == (statuses["refused"], statuses["timeout"])
    assert row.calls == pytest.approx(np.mean([np.mean([len(i.calls) for i in items if i.dataset == n]) for n in SETS]))
    assert {name: part.em.mean for name, part in row.by_set.items()} == pytest.approx(
        {name: scores.mean() for name, scores in by_set.items()}
    )
    for name, part in row.by_set.items():
        those = [i for i in items if i.dataset == name]
        assert part.latency_s == pytest.approx(np.mean([i.latency_s for i in those]))
        assert part.prompt_tokens == pytest.approx(np.mean([i.prompt_tokens for i in those]))
        assert part.completion_tokens == pytest.approx(np.mean([i.completion_tokens for i in those]))
        ended = Counter(status for i in those for _, status in i.calls)
        assert (part.ended.refusals, part.ended.failed_calls) == (ended["refused"], ended["timeout"])
    assert {hops: part.questions for hops, part in row.by_hops.items()} == {1: 20 + 13 + 5, 2: 20 + 12 + 5}
    assert row.em.low < row.em.mean < row.em.high
    assert row.samples == samples
    if samples > 1:
        per_sample = [
            np.mean([np.mean([i.em for i in items if i.dataset == n and i.sample == s]) for n in SETS])
            for s in range(samples)
        ]
        assert row.spread == pytest.approx(np.std(per_sample, ddof=1))
    assert summarise_row("policy", items, resamples=FEW) == row  # in any order of lines


@settings(max_examples=30)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6))
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(rights: list[list[bool]]) -> None:
    questions = [[item(question=str(q), em=float(right)) for right in row] for q, row in enumerate(rights)]
    found = pass_at(questions)
    assert list(found) == [1, 2, 4]
    for k, share in found.items():
        draws = [[any(chosen) for chosen in itertools.combinations(row, k)] for row in rights]
        assert share == pytest.approx(np.mean([np.mean(row) for row in draws]))


def test_of_one_item_the_spread_is_not_known() -> None:
    row = summarise_row("policy", [item()], resamples=FEW)
    assert (row.questions, row.em.mean) == (1, 1.0)
    assert math.isnan(row.em.low)
    found = against({"policy": [item()], "other": [item("other", em=0.0)]}, "policy", resamples=FEW)
    assert found["other"].comparison.p_value == 1.0
    assert math.isnan(found["other"].comparison.difference.low)


def test_identical_rows_do_not_differ() -> None:
    for sets in (SETS, {"nq": 30}):
        ours = made_row("policy", 1, sets)
        same = [Item(**{name: getattr(i, name) for name in Item.__slots__} | {"row": "twin"}) for i in ours]
        [found] = against({"policy": ours, "twin": same}, "policy", resamples=FEW).values()
        gap = found.comparison.difference
        assert (gap.mean, gap.low, gap.high, found.comparison.p_value, found.p_holm) == (0, 0, 0, 1, 1)


def test_rows_are_compared_on_the_questions_that_both_answered() -> None:
    ours = made_row("policy", 1, {"nq": 60})
    rows = {"policy": ours, "a": made_row("a", 2, {"nq": 40}), "b": made_row("b", 3, {"nq": 60}),
            "c": [item("c", "elsewhere")]}  # fmt: skip
    found = against(rows, "policy", resamples=FEW)
    assert {name: each.questions for name, each in found.items()} == {"a": 40, "b": 60}
    only = Counter((x.em, y.em) for x, y in zip(rows["b"], ours, strict=True))
    expected = stats.binomtest(only[1, 0], only[1, 0] + only[0, 1]).pvalue
    assert found["b"].comparison.p_value == pytest.approx(expected)
    assert [each.p_holm for each in found.values()] == holm([each.comparison.p_value for each in found.values()])


def test_rows_of_different_measures_are_compared_by_what_their_answers_hold() -> None:
    ours = [replace(i, held=float(n % 2)) for n, i in enumerate(made_row("policy", 1, {"nq": 60}))]
    held = [replace(i, em=float(n % 3 == 0), held=float(n % 3 == 0), measure=HOLDS) for n, i in enumerate(ours)]
    judged = [replace(i, measure=JUDGED, held=None) for i in made_row("judged", 2, {"nq": 60})]
    rows = {"policy": ours, "held": held, "judged": judged}
    found = against(rows, "policy", resamples=FEW)
    assert found.keys() == {"held"}  # the judged row and the policy have no common measure
    assert found["held"].measure == HOLDS
    assert found["held"].comparison.difference.mean == pytest.approx(1 / 3 - 1 / 2)
    assert against({"a": judged, "b": judged}, "a", resamples=FEW)["b"].measure == JUDGED


def test_over_several_sets_the_difference_is_the_macro_averages() -> None:
    ours, theirs = made_row("policy", 1, SETS), made_row("a", 2, SETS)
    [found] = against({"policy": ours, "a": theirs}, "policy", resamples=FEW).values()
    expected = summarise_row("a", theirs, resamples=FEW).em.mean - summarise_row("policy", ours, resamples=FEW).em.mean
    assert found.comparison.difference.mean == pytest.approx(expected)
    assert found.comparison.test == "sign_flip"


def test_a_model_that_refuses_everything_and_a_policy_that_asks_nobody_are_rows_too() -> None:
    silent = [item("alone:beta", f"q{n}", 0.0, f1=0.0, calls=[("beta", "refused")]) for n in range(5)]
    row = summarise_row("alone:beta", silent, resamples=FEW)
    assert (row.em.mean, row.ended.refusals, row.entropy) == (0.0, 5, 0.0)
    alone = summarise_row("policy", [item(question=f"q{n}", calls=()) for n in range(5)], resamples=FEW)
    assert (alone.calls, alone.call_share, alone.entropy) == (0.0, {}, 0.0)


def test_nothing_at_all_is_told() -> None:
    with pytest.raises(EvaluationError, match="policy: nothing to evaluate, 3 episodes failed"):
        summarise_row("policy", [], lost=3)


def test_f1_is_not_known_where_answers_are_not() -> None:
    assert summarise_row("policy", [item(), item(question="q1", f1=None)], resamples=FEW).f1 is None
