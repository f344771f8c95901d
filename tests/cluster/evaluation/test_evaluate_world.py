"""`router-r1 evaluate world`: its rows agree with the world's bench and with direct play."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from evaluations import lines, numbers, run

from actors.questions import Question
from benchmarks.baselines import contests
from benchmarks.baselines.world_bounds import baselines as played_baselines
from benchmarks.baselines.world_bounds import play
from benchmarks.evaluation.means import Outcome
from benchmarks.questions.sources import load_source
from benchmarks.world.experts import Expert, count_tokens, experts
from benchmarks.world.facts import Hop, World
from cluster.evaluation.options import EvaluationOptions

pytestmark = pytest.mark.thorough


@pytest.fixture(autouse=True)
def _little_to_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contests, "_WORLD_TRAIN", 100)


def test_the_worlds_baselines_are_those_of_its_own_bench(tmp_path: Path) -> None:
    out, _ = run(EvaluationOptions("world", limit=60, baselines=("alone", "cheapest_right"), out=tmp_path / "out"))
    found = numbers(out)
    drawn = {(row["dataset"], row["question"]) for row in lines(out)}
    all_ = load_source("world:heldout", limit=None, two_hop_share=0.4)
    expected = played_baselines([q for q in all_ if (q.dataset, q.id) in drawn], "seen", 0)
    singles = [row for name, row in found.items() if name.startswith("alone:")]
    best = max(singles, key=lambda row: row["em_all"])
    assert best["em_all"] == pytest.approx(expected["best_constant_hindsight"].em)
    assert set(found["cheapest_right"]["by_set"]) == {"world-1hop", "world-2hop"}
    mean = np.mean([part["em"]["mean"] for part in best["by_set"].values()])
    assert best["em"]["mean"] == pytest.approx(mean)
    assert set(best["by_hops"]) == {"1", "2"}
    assert best["prompt_tokens"] > 0 < best["latency_s"]


def chosen_at_random(question: Question, step: int, hop: Hop, world: World) -> Expert:
    return random.Random(f"random-0-{question.id}#{step}").choice(experts("seen"))


def cheapest_who_is_right(question: Question, step: int, hop: Hop, world: World) -> Expert:
    """The cheapest candidate that is right; the cheapest of all if none is."""
    prices = {
        each.name: each.cost_usd(count_tokens(hop.query), count_tokens(each.reply(hop, world)))
        for each in experts("seen")
    }
    return min(experts("seen"), key=lambda each: (not each.answers_rightly(hop, world), prices[each.name]))


@pytest.mark.parametrize(("row", "choose"), [("random", chosen_at_random), ("cheapest_right", cheapest_who_is_right)])
def test_random_and_cheapest_right_over_the_world_are_those_played_by_hand(
    row: str, choose: Callable[[Question, int, Hop, World], Expert], tmp_path: Path
) -> None:
    out, _ = run(EvaluationOptions("world", limit=60, baselines=(row,), out=tmp_path / "out"))
    items = {(item["dataset"], item["question"]): item for item in lines(out)}
    world, played = World(), {}
    for question in load_source("world:heldout", limit=None, two_hop_share=0.4):
        if (question.dataset, question.id) in items:
            steps = itertools.count()
            outcome = play(question, world, lambda hop, q=question, n=steps: choose(q, next(n), hop, world))  # type: ignore[misc]
            played[question.dataset, question.id] = outcome
    assert len(played) == len(items) == 60
    for key, outcome in played.items():
        assert (items[key]["em"], items[key]["f1"]) == (outcome.em, outcome.f1)
        assert items[key]["cost_usd"] == pytest.approx(outcome.cost_usd, rel=1e-12)
        assert items[key]["calls"] == [[name, "ok"] for name in outcome.asked]
    by_set: dict[str, list[Outcome]] = {}
    for (dataset, _), outcome in played.items():
        by_set.setdefault(dataset, []).append(outcome)
    figures = numbers(out)[row]
    assert figures["em_all"] == pytest.approx(np.mean([outcome.em for outcome in played.values()]))
    assert figures["em"]["mean"] == pytest.approx(np.mean([np.mean([o.em for o in part]) for part in by_set.values()]))
    usd = np.mean([np.mean([o.cost_usd for o in part]) for part in by_set.values()])
    assert figures["usd_per_1k"] == pytest.approx(1000 * usd)
    asked = Counter(name for outcome in played.values() for name in outcome.asked)
    assert figures["call_share"] == pytest.approx({name: n / asked.total() for name, n in asked.items()})
