"""Baselines of the world: the most competent expert, the best constant one in hindsight, and random routing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from actors.pool.cards import ModelCard
from actors.questions import Question
from benchmarks.evaluation.collapse import Constant, constant_of_cards, measured_constant
from benchmarks.evaluation.means import Evaluation, Outcome, summarise
from benchmarks.evaluation.methods import BEST_CONSTANT_HINDSIGHT, MOST_COMPETENT, RANDOM
from benchmarks.world.experts import Cohort, Expert, count_tokens, experts
from benchmarks.world.facts import Hop, World, hops_of
from rewards.outcome import exact_match, token_f1

Choose = Callable[[Hop], Expert]


def play(question: Question, world: World, choose: Choose) -> Outcome:
    """Answer a question hop by hop, asking the chosen expert each time and believing it."""
    asked: list[str] = []
    cost, answer = 0.0, ""
    for index, hop in enumerate(hops_of(question.text, world)):
        hop = hop if index == 0 else Hop(hop.relation, answer)
        expert = choose(hop)
        answer = expert.answer(hop, world)
        cost += expert.cost_usd(count_tokens(hop.query), count_tokens(expert.reply(hop, world)))
        asked.append(expert.name)
    return Outcome(exact_match(answer, question.answers), token_f1(answer, question.answers), cost, tuple(asked))


def baselines(questions: Sequence[Question], cohort: Cohort, seed: int) -> dict[str, Evaluation]:
    """Results of the methods that need only the world's rules, by their names in `benchmarks.evaluation.methods`."""
    world = World()
    pool = experts(cohort)
    rng = random.Random(f"random-routing-{seed}")

    def always(choose: Choose) -> Evaluation:
        return summarise([play(question, world, choose) for question in questions])

    singles = [always(lambda hop, expert=expert: expert) for expert in pool]  # type: ignore[misc]
    return {
        MOST_COMPETENT: always(lambda hop: max(pool, key=lambda expert: expert.competence[hop.domain])),
        BEST_CONSTANT_HINDSIGHT: max(singles, key=lambda evaluation: evaluation.em),
        RANDOM: always(lambda hop: rng.choice(pool)),
    }


def best_constant(
    questions: Sequence[Question], cards: Sequence[ModelCard], *, cohort: Cohort = "seen", seed: int = 0
) -> Constant | None:
    """The best constant policy on these questions: played in the embedded world, else by the cards; None if unknown."""
    if questions and all(question.dataset.startswith("world-") for question in questions):
        return measured_constant(baselines(questions, cohort, seed)[BEST_CONSTANT_HINDSIGHT])
    return constant_of_cards(cards, Counter(question.dataset for question in questions))
