"""The world: stable facts, splits without common entities, experts as competent as stated, and its baselines."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.baselines.world_bounds import baselines, play
from benchmarks.evaluation.means import Outcome, summarise
from benchmarks.questions.sources import load_source
from benchmarks.world.demonstrations import demonstrations, drills
from benchmarks.world.experts import SPECIALISTS_OF, WorldAnswerer, count_tokens, experts
from benchmarks.world.facts import DOMAIN_OF, DOMAINS, Hop, World, hops_of, question_text
from benchmarks.world.language import UNKNOWN, build_tokenizer
from rewards.form import violations
from rewards.grammar import parse_turn
from rewards.transcript import StopReason, Transcript, Turn

pytestmark = pytest.mark.thorough

WORLD = World()


def drawn(split: str, count: int = 400) -> list[tuple[object, tuple[Hop, ...]]]:
    return list(itertools.islice(WORLD.questions(split, 0, 0.4), count))  # type: ignore[arg-type]


def test_there_are_six_domains_and_questions_of_one_and_two_hops_in_all_of_them() -> None:
    questions = drawn("train")
    assert len(DOMAINS) >= 6
    assert {hop.domain for _, hops in questions for hop in hops} == set(DOMAINS)
    assert 0.3 < sum(len(hops) == 2 for _, hops in questions) / len(questions) < 0.5


def test_training_and_held_out_questions_share_no_entity() -> None:
    def entities(split: str) -> set[str]:
        return {hop.entity for _, hops in drawn(split) for hop in hops} | {
            WORLD.fact(hops[-1]) for _, hops in drawn(split)
        }

    assert entities("train").isdisjoint(entities("heldout"))


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_question_text_tells_its_hops(split: str) -> None:
    for question, hops in drawn(split, 50):
        assert hops_of(question.text, WORLD) == hops  # type: ignore[attr-defined]
        assert question_text(hops) == question.text  # type: ignore[attr-defined]
        assert question.answers == (WORLD.fact(hops[-1]),)  # type: ignore[attr-defined]


def test_facts_and_questions_are_the_same_in_every_world_of_a_seed() -> None:
    assert drawn("train", 20) == list(itertools.islice(World().questions("train", 0, 0.4), 20))
    assert World(1).entities["train"] != WORLD.entities["train"]


@pytest.mark.parametrize("cohort", ["seen", "unseen"])
def test_experts_answer_rightly_as_often_as_they_are_competent(cohort: str) -> None:
    for expert in experts(cohort):  # type: ignore[arg-type]
        for domain in DOMAINS:
            hops = [Hop(relation, e) for relation in DOMAINS[domain] for e in WORLD.entities["train"][:500]]
            right = sum(expert.answer(hop, WORLD) == WORLD.fact(hop) for hop in hops) / len(hops)
            assert right == pytest.approx(expert.competence[domain], abs=0.04)


@pytest.mark.parametrize("cohort", ["seen", "unseen"])
def test_the_dear_expert_is_best_the_cheap_one_nearly_and_the_generalist_good_everywhere(cohort: str) -> None:
    by_profession = {expert.profession: expert for expert in experts(cohort)}  # type: ignore[arg-type]
    hop = Hop("mineral", WORLD.entities["train"][0])
    price = {e.name: e.cost_usd(3, count_tokens(e.reply(hop, WORLD))) for e in by_profession.values()}
    for domain, (dear, cheap) in SPECIALISTS_OF.items():
        best, nearly, broad = by_profession[dear], by_profession[cheap], by_profession["polymath"]
        assert best.competence[domain] > nearly.competence[domain] > broad.competence[domain] > 0.7
        assert price[best.name] > price[broad.name] > price[nearly.name]


def test_a_wrong_answer_is_of_the_right_kind_and_always_the_same() -> None:
    decoy = next(expert for expert in experts() if expert.role == "decoy")
    hops = [Hop("star", entity) for entity in WORLD.entities["train"][:200]]
    wrong = [hop for hop in hops if not decoy.answers_rightly(hop, WORLD)]
    assert wrong
    for hop in wrong:
        assert decoy.answer(hop, WORLD) == decoy.answer(hop, WORLD) != WORLD.fact(hop)
        assert decoy.answer(hop, WORLD) in WORLD.entities["train"]


def test_the_answerer_bills_what_it_says_and_admits_what_it_does_not_know() -> None:
    answerer = WorldAnswerer()
    entity = WORLD.entities["train"][0]
    answer = answerer.answer("seen-geologist", f"mineral of {entity}", None)
    assert answer.completion_tokens == len(answer.text.split())
    assert answer.latency_s > 0
    assert answerer.answer("seen-geologist", "who wrote hamlet ?", None).text == "i cannot say ."
    with pytest.raises(KeyError):
        answerer.answer("nobody", "mineral of lanu", None)


def test_the_most_competent_beat_the_generalist_who_beats_chance() -> None:
    questions = load_source("world:heldout", limit=500, two_hop_share=0.4)
    found = baselines(questions, "seen", 0)
    assert found["most_competent"].em > found["best_constant_hindsight"].em + 0.1 > found["random"].em + 0.2
    assert (
        found["most_competent"].cost_usd_per_1k_questions > found["best_constant_hindsight"].cost_usd_per_1k_questions
    )
    assert sum(found["most_competent"].call_share.values()) == pytest.approx(1)
    assert max(found["most_competent"].call_share.values()) < 0.3


def test_a_wrong_bridge_spoils_the_second_hop() -> None:
    decoy = next(expert for expert in experts() if expert.role == "decoy")
    questions = [q for q, hops in drawn("train") if len(hops) == 2 and not decoy.answers_rightly(hops[0], WORLD)]
    outcomes = [play(question, WORLD, lambda hop: decoy) for question in questions]  # type: ignore[arg-type]
    assert questions
    assert summarise(outcomes).em < 0.05


def test_an_evaluation_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="3 episodes, all void"):
        summarise([], void=3)
    assert summarise([Outcome(1.0, 1.0, 0.002, ("a", "b"))]).cost_usd_per_1k_questions == 2.0


def test_demonstrations_keep_the_form_and_the_language() -> None:
    tokenizer = build_tokenizer()
    rules: set[str] = set()
    for demonstration in itertools.islice(demonstrations(WORLD, 5), 200):
        spoken = [(p.text, *parse_turn(p.text)) for p in demonstration.pieces if p.spoken]
        turns = tuple(Turn(text, blocks, faults=faults) for text, blocks, faults in spoken)
        assert violations(Transcript(turns, StopReason.ANSWERED)) == ()
        text = demonstration.prompt + " ".join(piece.text for piece in demonstration.pieces)
        assert UNKNOWN not in tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))
        rules |= set(demonstration.rules)
    assert rules == {"best", "thrifty", "broad", "any"}


def test_demonstrations_under_a_budget_read_out_what_it_pays_for_and_choose_among_that() -> None:
    tokenizer = build_tokenizer()
    rules: dict[bool, set[str]] = {True: set(), False: set()}  # by whether the budget can pay for every card
    for demonstration in itertools.islice(demonstrations(WORLD, 5, budgets=True), 400):
        budget = demonstration.prompt.splitlines()[0]
        limit = 5 * int(budget.removeprefix("$"))
        thoughts = [piece.text for piece in demonstration.pieces if piece.spoken][:-1]
        for thought, rule in zip(thoughts, demonstration.rules, strict=True):
            listed, read_out, chosen = thought.split(" </think>")[0].rsplit(" . ", 2)
            prices = [int(word.removeprefix("$")) for word in listed.split() if word.startswith("$")]
            paid = [name for name, price in zip(("best", "thrifty", "broad"), prices, strict=True) if price <= limit]
            assert read_out.split() == [budget, *paid]
            assert chosen.split()[0] == rule
            assert rule in {*paid, "any"} or not paid
            (card,) = [line for line in demonstration.prompt.splitlines() if chosen.split()[2] in line.split()]
            assert int(card.split("$")[1].split()[0]) <= limit or not paid
            rules[limit >= 40].add(rule)
        text = demonstration.prompt + " ".join(piece.text for piece in demonstration.pieces)
        assert UNKNOWN not in tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))
    assert rules[True] == rules[False] == {"best", "thrifty", "broad", "any"}


def test_drills_speak_only_what_stands_on_the_cards() -> None:
    drill = next(drills(WORLD, 1))
    assert all(piece.text in drill.prompt for piece in drill.pieces if piece.spoken)
    assert sum(piece.spoken for piece in drill.pieces) == 12


def test_the_tokenizer_gives_back_the_text() -> None:
    tokenizer = build_tokenizer()
    for question, hops in drawn("heldout", 30):
        text = f"<think> {hops[0].domain} </think> <search> {hops[0].query} </search>"
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
        assert tokenizer.decode(tokenizer.encode(question.text)) == question.text  # type: ignore[attr-defined]
    assert set(DOMAIN_OF) <= set(tokenizer.get_vocab())
