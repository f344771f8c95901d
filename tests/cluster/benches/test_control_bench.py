"""The control bench: scripted episodes look like played ones, every row is judged, and a small bench runs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from actors.episodes.episode import EpisodeRequest
from actors.episodes.menu import Menu
from actors.questions import Question
from benchmarks.benches.scripted_worker import SCRIPTS, play, write_script
from cluster.benches.control import GROUP_SIZE, Pace, Size, judge, measure
from cluster.episodes.judging import judge_all
from cluster.training.batch import admit
from rewards.presets import Judge
from rewards.settings import RewardSettings


def test_scripted_episodes_are_of_a_played_one_s_size_and_form() -> None:
    question = Question("q", "world", "what ?", ("sena",))
    trajectories = [
        play(write_script(seed), EpisodeRequest(question, Menu(()), "3-0", seed, step=3)) for seed in range(SCRIPTS)
    ]
    assert {len(t.transcript.turns) for t in trajectories} == {1, 2, 3}
    assert all(len(t.transcript.calls) == len(t.transcript.turns) - 1 for t in trajectories)
    assert all(150 <= len(t.token_ids) <= 300 for t in trajectories)
    assert all(len(t.token_ids) == len(t.sampled) == len(t.logprobs) == len(t.versions) for t in trajectories)
    assert {t.oldest_version for t in trajectories} == {1}
    judged = judge_all(trajectories, Judge(RewardSettings()))
    assert {t.reward.format for t in judged if t.reward} == {0.0}
    assert 0.3 < np.mean([t.reward.em for t in judged if t.reward]) < 0.7
    assert admit(judged, version=2, max_staleness=1) == judged


def test_the_scripted_worker_starts_without_torch_and_vllm() -> None:
    code = "import sys, benchmarks.benches.scripted_worker; print([m for m in ('torch', 'vllm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("rate", "cost", "holds"), [(1500, 480, [True, True]), (1499, 481, [False, False]), (2000, 319, [True, False])]
)
def test_the_largest_fleet_is_held_against_the_targets(rate: float, cost: float, holds: list[bool]) -> None:
    rows = judge({8: [Pace(9000, 390), Pace(10, 400), Pace(10, 410)], 256: [Pace(rate, cost)]})
    assert [row.holds for row in rows if row.target] == holds


@pytest.mark.engine
def test_a_small_one_is_measured(ray_cluster: None) -> None:
    found = measure(Size(workers=(1, 5), processes=2, groups=4, steps=1, repetitions=2))
    assert {workers: len(paces) for workers, paces in found.items()} == {1: 2, 5: 2}
    assert all(p.per_s > 0 and p.driver_us > 0 for paces in found.values() for p in paces)
    assert GROUP_SIZE <= SCRIPTS
