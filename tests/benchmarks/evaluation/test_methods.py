"""Methods: each has one name and one definition, and is found by every name of its rows."""

from __future__ import annotations

import pytest

from benchmarks.baselines.comparison import NAMES
from benchmarks.baselines.rows import UNTRAINED
from benchmarks.baselines.world_bounds import baselines
from benchmarks.evaluation.methods import METHODS, OF_RUN, definitions, method_of, methods_of, result_name
from benchmarks.evaluation.protocol import passes
from benchmarks.world.facts import World


def test_keys_names_and_meanings_are_each_of_one_method() -> None:
    for values in (
        [m.key for m in METHODS.values()],
        [m.name for m in METHODS.values()],
        [m.meaning for m in METHODS.values()],
    ):
        assert len(set(values)) == len(values)


def test_everything_that_makes_a_row_or_a_result_is_defined() -> None:
    question, _ = next(World().questions("heldout", 1, 0.4))
    rows = [*NAMES, *UNTRAINED, *OF_RUN, *baselines([question], "seen", 0)]
    rows += [each.row for each in (*passes("paper", 2, (0.1,)), *passes("full", 2))]
    assert [row for row in rows if method_of(row) is None] == []


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ("knn, some/model, λ=0.1", "knn"), ("alone:Qwen (7B), λ", "alone"), ("policy, sampled, budget=0.5", "policy"),
        ("policy, by budget", "policy"), ("policy (small at http://h/v1)", "policy"), ("cot, sampled", "cot"),
        ("best_constant_training @ price:a=2", "best_constant_training"), ("cheapest", "cheapest"),
        ("most_competent_unseen", "most_competent"), ("after_unseen", "after"),
    ],
)  # fmt: skip
def test_settings_pools_and_endpoints_do_not_hide_the_method(row: str, key: str) -> None:
    assert method_of(row) is METHODS[key]


@pytest.mark.parametrize(
    "row", ["", "after_step", "cheapest_rightly", "Router-R1-Qwen (published)", "seen-chef", "oracle"]
)
def test_what_is_no_method_of_ours_is_none(row: str) -> None:
    assert method_of(row) is None


def test_definitions_come_once_in_the_order_of_the_rows() -> None:
    assert [m.key for m in methods_of(["knn, λ=0.1", "random", "knn", "strange"])] == ["knn", "random"]
    [line] = definitions(["most_competent", "most_competent_unseen"])
    assert line.startswith("most_competent (most competent candidate): asks ")


def test_results_in_words() -> None:
    assert result_name("best_constant_hindsight") == "best constant in hindsight"
    assert result_name("most_competent_unseen") == "most competent candidate, unseen"
    assert result_name("some_thing") == "some thing"
