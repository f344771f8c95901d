"""The collapse watch: it gives an alarm if a policy has stopped routing, and only then."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from actors.pool.cards import ModelCard
from actors.questions import Question
from benchmarks.baselines.world_bounds import best_constant
from benchmarks.evaluation.collapse import (
    Constant,
    call_entropy,
    collapse_alarm,
    constant_of_cards,
    measured_constant,
    standard_error,
)
from benchmarks.evaluation.means import Evaluation
from benchmarks.world.experts import experts
from benchmarks.world.facts import World

EVEN = {"a": 0.5, "b": 0.5}


def policy(em: float, usd: float = 1.0, share: dict[str, float] | None = None, count: int = 100) -> Evaluation:
    return Evaluation(count, em, em, usd, 1.0, EVEN if share is None else share)


def card(name: str, price: float = 1.0, **domains: float) -> ModelCard:
    return ModelCard(
        name=name,
        descriptor="any",
        base_url="http://127.0.0.1:1/v1",
        price_in_usd_per_mtok=price,
        price_out_usd_per_mtok=price,
        domains=domains,
        measured_questions=50,
    )


@given(st.dictionaries(st.text(), st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_the_entropy_of_call_shares_is_scipy_s(weights: dict[str, float]) -> None:
    assert call_entropy(weights) == pytest.approx(entropy(list(weights.values())), abs=1e-9)


def test_the_entropy_of_no_calls_and_of_one_model_is_zero() -> None:
    assert call_entropy({}) == call_entropy({"a": 1.0, "b": 0.0}) == 0.0
    assert math.exp(call_entropy({"a": 0.2, "b": 0.2, "c": 0.2})) == pytest.approx(3)


def test_the_standard_error_is_that_of_drawn_differences() -> None:
    ours, theirs = policy(0.8, count=200), Constant("a", 0.6, 200)
    rng = np.random.default_rng(0)
    drawn = rng.binomial(200, 0.8, 50_000) / 200 - rng.binomial(200, 0.6, 50_000) / 200
    assert standard_error(ours, theirs) == pytest.approx(drawn.std(), rel=0.02)


@pytest.mark.parametrize(
    ("em", "usd", "alarm"),
    [
        (0.90, 9.0, False),  # better, and more expensive
        (0.70, 1.0, True),  # better by less than a standard error (0.066), at the same price
        (0.77, 1.0, False),  # better by more than a standard error
        (0.67, 0.5, False),  # as good, at half the price
        (0.67, 0.97, True),  # as good, and hardly cheaper
        (0.40, 0.1, True),  # cheap, and clearly worse
    ],
)
def test_a_policy_is_measured_by_the_best_constant_one(em: float, usd: float, alarm: bool) -> None:
    said = collapse_alarm(policy(em, usd), Constant("poet", 2 / 3, 100, 1.0))
    assert (said is not None) == alarm
    if said:
        assert f"always asking poet: exact match {em:.3f} against 0.667" in said
        assert "against $1." in said


def test_an_unknown_price_or_number_of_questions_is_no_excuse() -> None:
    said = collapse_alarm(policy(0.6, 0.01), Constant("poet", 0.6, 0, None, "best_constant_cards"))
    assert said is not None
    assert "(the best constant by the cards, which always asks" in said
    assert said.endswith("on these data sets; standard error of the difference 0.049); it costs $0.01 per 1,000 "
                         "questions.")  # fmt: skip


def test_one_model_with_nearly_all_calls_is_told_whatever_the_score() -> None:
    assert collapse_alarm(policy(1.0, share={"a": 0.951, "b": 0.049})) == "95.1% of all calls go to a."
    assert collapse_alarm(policy(1.0, share={"a": 0.95, "b": 0.05})) is None
    assert "No candidate is asked" in str(collapse_alarm(policy(1.0, share={})))


def test_with_one_candidate_there_is_nothing_to_tell() -> None:
    assert collapse_alarm(policy(0.5, share={"a": 1.0}), Constant("a", 0.5, 100, 1.0), candidates=1) is None


def test_a_score_that_is_not_known_is_not_judged() -> None:
    assert collapse_alarm(policy(math.nan), Constant("a", 0.5, 100, 1.0)) is None


def test_cards_give_the_constant_where_they_know_every_data_set() -> None:
    cards = [card("poet", nq=0.5, hotpotqa=0.3), card("sage", nq=0.4, hotpotqa=0.6), card("star", nq=1.0)]
    found = constant_of_cards(cards, {"nq": 30, "hotpotqa": 10})
    assert found == Constant(
        "poet", pytest.approx(0.45), 50, None, "best_constant_cards"
    )  # both have .45; the cheaper one wins
    assert constant_of_cards(cards, {"nq": 10, "hotpotqa": 30}).model == "sage"  # type: ignore[union-attr]
    assert constant_of_cards(cards, {"popqa": 1}) is None
    assert constant_of_cards(cards, {}) is None


def test_of_equal_cards_the_cheaper_is_the_constant() -> None:
    found = constant_of_cards([card("dear", 2.0, nq=0.5), card("cheap", 1.0, nq=0.5)], {"nq": 1})
    assert found is not None
    assert found.model == "cheap"


def test_in_the_world_the_constant_is_played() -> None:
    asked = [question for question, _ in islice(World().questions("heldout", 1, 0.4), 20)]
    found = best_constant(asked, [expert.card("http://127.0.0.1:1/v1") for expert in experts("seen")])
    assert found is not None
    assert found.model == "seen-polymath"
    assert found.questions == 20
    assert found.usd_per_1k_questions is not None
    assert best_constant([Question("1", "nq", "who ?", ("Ada",))], [card("poet", nq=0.5)]) == Constant(
        "poet", 0.5, 50, None, "best_constant_cards"
    )


def test_a_constant_asks_one_model() -> None:
    with pytest.raises(ValueError, match=r"asks one model; this evaluation asked \['a', 'b'\]"):
        measured_constant(policy(0.5))
