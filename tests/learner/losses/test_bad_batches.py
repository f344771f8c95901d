"""Bad batches: a number that is not finite is found before training, and its trajectory is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.episodes.trajectory import Trajectory
from learner.losses.bad_batches import BadBatches, bad_input, bad_scores
from learner.losses.scores import SampleScores


@pytest.fixture
def batch(random_trajectories: Callable[..., list[Trajectory]]) -> list[Trajectory]:
    return random_trajectories(np.random.default_rng(1), 2, 2)


def with_logprob(trajectory: Trajectory, value: float, *, sampled: bool) -> Trajectory:
    logprobs = trajectory.logprobs.copy()
    logprobs[np.flatnonzero(trajectory.sampled == sampled)[0]] = value
    return replace(trajectory, logprobs=logprobs)


def test_a_batch_as_it_came(batch: list[Trajectory]) -> None:
    assert bad_input(batch) is None
    assert batch[1].reward is not None
    rewards = [batch[0], replace(batch[1], reward=replace(batch[1].reward, components={"cost": math.nan})), *batch[2:]]
    assert bad_input(rewards) == ("reward is not finite", ["group 'g0' seed 1"])
    for value in (math.nan, -math.inf):
        engine = [*batch[:3], with_logprob(batch[3], value, sampled=True)]
        assert bad_input(engine) == ("the engine's log-probability is not finite", ["group 'g1' seed 1"])
        assert bad_input([*batch[:3], with_logprob(batch[3], value, sampled=False)]) is None, "nobody reads it"


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("logprobs", "the learner's log-probability is not finite"),
        ("ref_logprobs", "the reference policy's log-probability is not finite"),
        ("kl_penalties", "the KL penalty is not finite"),
        ("values", "the critic's value is not finite"),
    ],
)
def test_what_the_ranks_make_of_it(field: str, says: str, batch: list[Trajectory]) -> None:
    good = SampleScores(*(np.zeros(3, np.float32) for _ in range(4)))
    assert bad_scores(batch, {0: good, 2: good}) is None
    bad = replace(good, **{field: np.array([0, np.inf, 0], np.float32)})
    assert bad_scores(batch, {0: good, 2: bad}) == (says, ["group 'g1' seed 0"])


def test_a_batch_that_cant_be_kept_ends_no_run(
    batch: list[Trajectory], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bad").write_text("in the way", encoding="utf-8")
    BadBatches(3, tmp_path / "bad").add(7, "reward is not finite", [], batch)
    assert "batch 7 was skipped: reward is not finite" in caplog.text
    assert "the batch can't be saved (" in caplog.text
