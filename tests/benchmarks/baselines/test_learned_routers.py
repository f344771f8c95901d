"""Routers that learn: they find each candidate's subjects, weigh cost in the same way, follow their seed, and do not
read the answers."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from functools import cache, partial

import numpy as np
import pytest
import torch
from router_tables import table_of, topics_table

from benchmarks.baselines import cascade, contrastive, matrix_factorisation
from benchmarks.baselines.comparison import LEARNED, NAMES, make_router
from benchmarks.baselines.contrastive import _candidates_loss
from benchmarks.baselines.embedding import Embedder
from benchmarks.baselines.expected import NearestNeighbours, Perceptron
from benchmarks.baselines.router import Router, RouterError, Terms
from benchmarks.baselines.torch_fit import minimise
from benchmarks.evaluation.means import summarise
from benchmarks.evaluation.reply_table import ReplyTable

pytestmark = pytest.mark.thorough

TRAIN, TEST = topics_table(200, 1, noise=0.02), topics_table(80, 2, noise=0.02)
QUICK = [name for name in LEARNED if name != "ppo"]  # PPO starts Ray


@pytest.fixture(autouse=True)
def _little_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few choices to cross-validate, and a few large steps: the task is easy, and tests should be fast."""
    monkeypatch.setattr(Perceptron, "CHOICES", (10.0,))
    monkeypatch.setattr(cascade, "_STRENGTHS", (1.0,))
    monkeypatch.setattr(cascade, "_FOLDS", 3)
    for module in (contrastive, matrix_factorisation):
        monkeypatch.setattr(module, "minimise", partial(minimise, epochs=40, learning_rate=0.02))


@pytest.fixture
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Very short training, for tests that do not depend on its success."""
    for module in (contrastive, matrix_factorisation):
        monkeypatch.setattr(module, "minimise", partial(minimise, epochs=3))


@cache
def router(name: str) -> Router:
    """A router at λ = 0, trained once for all tests."""
    made = make_router(name, Terms())
    made.fit(TRAIN)
    return made


def garbled(table: ReplyTable, **change: object) -> ReplyTable:
    """The same replies with other values in some fields."""
    rows = tuple(tuple(dataclasses.replace(reply, **change) for reply in row) for row in table.replies)  # type: ignore[arg-type]
    return dataclasses.replace(table, replies=rows)


@pytest.mark.parametrize("name", [name for name in QUICK if name != "cascade"])
def test_who_knows_what_is_learnt(name: str) -> None:
    found = summarise(router(name).play(TEST))
    assert found.em > 0.85  # the best alone: 0.7
    assert min(found.call_share["geographer"], found.call_share["musician"]) > 0.3


@pytest.mark.parametrize("name", QUICK)
def test_a_high_price_of_cost_leads_to_the_cheapest(name: str) -> None:
    thrifty = router(name)
    if thrifty.learns_lambda:
        thrifty = make_router(name, Terms(10.0))
        thrifty.fit(TRAIN)
    thrifty.lambda_ = 10.0
    assert set(thrifty.route(TEST)) == {(0,)}
    thrifty.lambda_ = 0.0


@pytest.mark.parametrize("name", QUICK)
def test_the_answers_are_not_looked_at(name: str) -> None:
    blind = garbled(TEST, correct=0.5, f1=0.0, cost_usd=0.1)
    assert router(name).route(blind) == router(name).route(TEST)


def test_only_the_cascade_reads_replies_and_only_of_those_asked() -> None:
    silent = garbled(TEST, text="")
    for name in QUICK:
        assert (router(name).route(silent) == router(name).route(TEST)) is (name != "cascade")
    routes = router("cascade").route(TEST)
    for row, asked in enumerate(routes[:50]):
        table = TEST.take([row])
        replies = tuple(
            reply if column in asked[:-1] else dataclasses.replace(reply, text="perhaps, who knows")
            for column, reply in enumerate(table.replies[0])
        )
        assert router("cascade").route(dataclasses.replace(table, replies=(replies,)))[0][: len(asked)] == asked


@pytest.mark.usefixtures("_brief")
@pytest.mark.parametrize("name", QUICK)
def test_the_same_seed_gives_the_same_router(name: str) -> None:
    small = TRAIN.take(range(40))
    routes = []
    for _ in range(2):
        torch.rand(1)  # torch's global generator must not matter
        again = make_router(name, Terms(0.1, seed=3))
        again.fit(small)
        routes.append(again.route(TEST))
    assert routes[0] == routes[1]


@pytest.mark.usefixtures("_brief")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("alone", "ppo", "largest", "cascade")])
def test_ten_questions_will_do(name: str) -> None:
    few = make_router(name, Terms())
    few.fit(TRAIN.take(range(10)))
    assert len(few.play(TEST)) == len(TEST)


@pytest.mark.parametrize("name", LEARNED)
def test_fewer_are_too_few(name: str) -> None:
    with pytest.raises(RouterError, match="needs at least 10 training questions, got 9; give more"):
        make_router(name, Terms()).fit(TRAIN.take(range(9)))


@pytest.mark.usefixtures("_brief")
@pytest.mark.parametrize("name", QUICK)
def test_one_candidate_leaves_no_choice(name: str) -> None:
    one = make_router(name, Terms())
    one.fit(table_of([[row % 2] for row in range(20)], [[0.1]] * 20))
    assert set(one.route(table_of([[1.0]], [[0.1]]))) == {(0,)}


def test_neighbours_are_the_nearest_by_cosine() -> None:
    knn = router("knn")
    assert isinstance(knn, NearestNeighbours)
    k = int(knn.chosen().removeprefix("k="))
    train, test = (Embedder(Terms()).fit(TRAIN.queries), knn._embedder.embed(TEST.queries))
    assert np.linalg.norm(test, axis=1) == pytest.approx(np.ones(len(test)), abs=1e-5)
    similar = test @ train.T
    for row in range(20):
        nearest = np.argsort(-similar[row])[:k]
        bound = similar[row][nearest].min()
        if np.isclose(
            np.sort(similar[row])[::-1][k], bound, atol=1e-6
        ):  # a tie for the last place: each of them may be taken
            continue
        assert knn.expect(test[[row]])[0] == pytest.approx(TRAIN.correct[nearest].mean(axis=0))


def test_the_contrastive_loss_is_the_papers_where_gaps_are_one() -> None:
    scores = torch.tensor([[0.3, -0.2, 0.5, 0.1]])
    utility = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    against = math.exp(-0.2) + math.exp(0.1)
    expected = np.mean([-math.log(math.exp(s) / (math.exp(s) + against)) for s in (0.3, 0.5)])
    assert float(_candidates_loss(scores, utility)) == pytest.approx(expected, rel=1e-5)
    assert float(_candidates_loss(scores, torch.ones(1, 4))) == 0.0  # no candidate has a lower utility
    close = torch.tensor([[1.0, 0.999, 0.999, 0.999]])
    assert float(_candidates_loss(scores, close)) < 0.002


def test_the_contrastive_loss_has_finite_gradients_where_all_are_alike() -> None:
    scores = torch.zeros(2, 3, requires_grad=True)
    _candidates_loss(scores, torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.5]])).backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_random_tests_are_not_vacuous() -> None:
    assert Counter(router("cascade").route(TEST)).most_common(1)[0][1] < len(TEST)
