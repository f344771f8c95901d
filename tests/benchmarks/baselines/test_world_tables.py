"""The world's reply tables: its experts' replies to whole questions and to single hops."""

from __future__ import annotations

import pytest

from benchmarks.baselines.comparison import compare
from benchmarks.baselines.fixed import Alone, CheapestRight, Uniform
from benchmarks.baselines.router import Terms
from benchmarks.baselines.world_bounds import baselines, play
from benchmarks.baselines.world_tables import hop_table, play_by_hop, whole_table
from benchmarks.evaluation.means import summarise
from benchmarks.questions.sources import load_source
from benchmarks.world.experts import Cohort, experts
from benchmarks.world.facts import World

pytestmark = pytest.mark.thorough

QUESTIONS = load_source("world:heldout", limit=120, two_hop_share=0.5)
WORLD = World()


@pytest.mark.parametrize("cohort", ["seen", "unseen"])
def test_an_expert_alone_answers_as_it_plays(cohort: Cohort) -> None:
    cast = experts(cohort)
    whole = whole_table(QUESTIONS, cast)
    for expert in cast[::3]:
        played = [play(question, WORLD, lambda hop, expert=expert: expert) for question in QUESTIONS]  # type: ignore[misc]
        alone = Alone(Terms(), expert.name)
        by_hop = play_by_hop(alone, QUESTIONS, cast)
        assert [(o.em, o.f1, o.asked) for o in by_hop] == [(o.em, o.f1, o.asked) for o in played]
        assert [o.cost_usd for o in by_hop] == pytest.approx([o.cost_usd for o in played])
        assert [o.em for o in alone.play(whole)] == [o.em for o in played]
        assert [o.cost_usd for o in alone.play(whole)] == pytest.approx([o.cost_usd for o in played])


def test_the_cheapest_right_of_hops_is_as_good_as_the_most_competent_experts_and_cheaper() -> None:
    dear = baselines(QUESTIONS, "seen", 0)["most_competent"]
    found = summarise(play_by_hop(CheapestRight(Terms()), QUESTIONS))
    assert found.em >= dear.em
    assert found.cost_usd_per_1k_questions < 0.5 * dear.cost_usd_per_1k_questions
    assert found.em > summarise(CheapestRight(Terms()).play(whole_table(QUESTIONS))).em  # one expert for both hops


def test_random_draws_anew_for_each_hop() -> None:
    played = [outcome.asked for outcome in play_by_hop(Uniform(Terms()), QUESTIONS)]
    pairs = [asked for asked in played if len(asked) == 2]
    same = sum(first == second for first, second in pairs) / len(pairs)
    assert len(pairs) >= 40
    assert same == pytest.approx(1 / len(experts("seen")), abs=0.2)


def test_a_table_of_hops_has_each_once() -> None:
    table = hop_table(QUESTIONS)
    assert len(set(table.queries)) == len(table) >= len(QUESTIONS)
    assert set(table.take([0]).queries[0].split()) >= {"what", "is", "the", "of"}


def test_neighbours_learn_the_domains_of_the_world() -> None:
    train = load_source("world:train", limit=500, two_hop_share=0.4)
    knn, best = compare(
        hop_table(train),
        hop_table(QUESTIONS),
        ["knn", "best_constant_training"],
        play=lambda r: play_by_hop(r, QUESTIONS),
    )
    assert knn.evaluation is not None
    assert best.evaluation is not None
    assert knn.evaluation.em > best.evaluation.em + 0.1
    assert max(knn.evaluation.call_share.values()) < 0.4
