"""The evaluator: beside training it never blocks, and its numbers come from its own episodes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from actors.episodes.trajectory import Trajectory
from actors.questions import Question
from benchmarks.benches.scripted_worker import play, write_script
from benchmarks.world.experts import experts
from cluster.config.loading import load_config
from cluster.training.evaluator import Evaluator
from cluster.workers.play import Play
from rewards.presets import Judge

CARDS = [expert.card("http://127.0.0.1:1/v1") for expert in experts("seen")]
HELDOUT = [Question(f"q{n}", "world", f"question {n} ?", ("sena",)) for n in range(20)]


class Engines:
    """Replaces the fleet; plays when the test says so, with the version of that moment."""

    def __init__(self) -> None:
        self.version = 3

    def submit(self, groups: Sequence[Sequence[object]]) -> list[Play]:
        return [Play(requests) for requests in groups]  # type: ignore[arg-type]

    def peek(self, asked: Play) -> list[Trajectory] | None:
        return asked.trajectories

    def play(self, asked: Play) -> None:
        (request,) = asked.requests
        trajectory = play(write_script(request.seed % 8), request)
        trajectory.versions[trajectory.sampled] = self.version
        asked.trajectories = [trajectory]

    def collect(self, plays: Sequence[Play], timeout_s: float, setting: str) -> list[list[Trajectory]]:
        for asked in plays:
            if asked.trajectories is None:
                self.play(asked)
        return [asked.trajectories or [] for asked in plays]


def test_it_is_done_when_its_last_episode_is_and_tells_which_policies_played() -> None:
    engines, config = Engines(), load_config("quickstart")
    crew = SimpleNamespace(version=3, fleet=engines)
    candidates = SimpleNamespace(cards=CARDS, unseen_menu=CARDS)
    evaluator = Evaluator(config, crew, candidates, HELDOUT, Judge(config.rewards))  # type: ignore[arg-type]
    asked = evaluator.begin()
    assert [p.requests[0].question for p in asked.plays] == HELDOUT
    assert {p.requests[0].group.split("-")[1] for p in asked.plays} == {"3"}
    for half in asked.plays[:10]:
        engines.play(half)
    assert not evaluator.is_done(asked)
    crew.version = engines.version = 4  # training went on
    found = evaluator.finish(asked)
    assert evaluator.is_done(asked)
    assert found.row["eval/version"] == 3
    assert found.row["eval/newest_version"] == 4
    assert found.row["eval/em"] == pytest.approx(np.mean([t.reward.em for t in found.judged if t.reward]))
    assert found.evaluation.questions == len(HELDOUT)
    assert found.alarm is None  # the best constant policy is not known for these questions


def test_a_trained_policy_that_asks_one_model_only_raises_an_alarm() -> None:
    engines, config = Engines(), load_config("quickstart")
    crew = SimpleNamespace(version=0, fleet=engines)
    candidates = SimpleNamespace(cards=CARDS, unseen_menu=CARDS)
    evaluator = Evaluator(config, crew, candidates, HELDOUT, Judge(config.rewards))  # type: ignore[arg-type]

    def one_model(asked: Play) -> None:
        played = play(next(s for s in map(write_script, range(8)) if s.searches), asked.requests[0])
        turns = tuple(
            replace(turn, calls=tuple(replace(call, model="polymath") for call in turn.calls))
            for turn in played.transcript.turns
        )
        asked.trajectories = [replace(played, transcript=replace(played.transcript, turns=turns))]

    engines.play = one_model  # type: ignore[method-assign]
    assert evaluator.finish(evaluator.begin()).alarm is None  # before training
    crew.version = 7
    found = evaluator.finish(evaluator.begin())
    assert found.alarm is not None
    assert "100.0% of all calls go to polymath" in found.alarm
