"""Episode requests: a group shares its prompt, draws can be repeated, and no two calls of a run have the same place."""

from __future__ import annotations

from collections import Counter

from actors.questions import Question
from benchmarks.world.experts import experts
from cluster.config.loading import load_config
from cluster.config.settings import Config
from cluster.episodes.requests import evaluation_budget, evaluation_requests, training_requests

CARDS = [expert.card("http://127.0.0.1:1/v1") for expert in experts()]
QUESTIONS = [Question(f"q{number}", "world", f"question {number} ?", ("sena",)) for number in range(6)]


def configured(*overrides: str) -> Config:
    return load_config("quickstart", ["run.group_size=3", *overrides])


def test_no_two_episodes_of_a_run_have_one_place() -> None:
    config = configured()
    places: Counter[tuple[int, str]] = Counter()
    for step in range(4):
        asked = evaluation_requests(config, step, QUESTIONS, CARDS)
        asked += evaluation_requests(config, step, QUESTIONS, CARDS, "unseen")
        asked += training_requests(config, step, QUESTIONS, CARDS)
        places.update((request.step, request.episode) for request in asked)
    assert len(places) == 4 * 6 * 5
    assert set(places.values()) == {1}


def test_a_group_shares_menu_and_budget_and_the_draw_repeats() -> None:
    config = configured("episode.budgets_usd=[0.0002, 0.0004, 0.0008]")
    requests = training_requests(config, 5, QUESTIONS, CARDS)
    assert requests == training_requests(config, 5, QUESTIONS, CARDS)
    for first in range(0, len(requests), 3):
        group = requests[first : first + 3]
        assert len({request.seed for request in group}) == 3
        assert len({(request.group, request.budget_usd) for request in group}) == 1
        assert all(request.menu == group[0].menu for request in group)
    drawn = {r.budget_usd for step in range(8) for r in training_requests(config, step, QUESTIONS, CARDS)}
    assert drawn == set(config.episode.budgets_usd)


def test_evaluation_asks_under_the_same_menus_and_budgets_at_every_step() -> None:
    config = configured("episode.budgets_usd=[0.0002, 0.0004, 0.0008]")
    early, late = (evaluation_requests(config, step, QUESTIONS, CARDS) for step in (0, 9))
    assert [(r.menu, r.budget_usd, r.seed) for r in early] == [(r.menu, r.budget_usd, r.seed) for r in late]
    assert {r.budget_usd for r in early} <= set(config.episode.budgets_usd)


def test_a_fixed_budget_takes_the_place_of_the_drawn_ones() -> None:
    config = configured("episode.budgets_usd=[0.0002, 0.0004]", "episode.eval_budget_usd=0.0008")
    assert {r.budget_usd for r in evaluation_requests(config, 1, QUESTIONS, CARDS)} == {0.0008}
    assert 0.0008 not in {r.budget_usd for r in training_requests(config, 1, QUESTIONS, CARDS)}
    assert evaluation_budget(config.episode, "any") == 0.0008


def test_without_budgets_none_is_told() -> None:
    config = configured()
    requests = training_requests(config, 1, QUESTIONS, CARDS) + evaluation_requests(config, 1, QUESTIONS, CARDS)
    assert {r.budget_usd for r in requests} == {None}
