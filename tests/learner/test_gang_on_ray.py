"""The learner gang as Ray actors: its deadline, its errors, and a rank that dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ray.exceptions import RayActorError, RayTaskError

from actors.episodes.trajectory import Trajectory
from learner.gang import LearnerError, LearnerGang, RankLost, lost
from learner.settings import LearnerSettings

SETTINGS = LearnerSettings(
    ranks=2, zero_stage=2, micro_batch_tokens=70, max_restarts=1, start_timeout_s=240, step_timeout_s=120
)
PROBE = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
TIMED = {"step_seconds", "tokens_per_s", "peak_memory_gib"}


def raised(error: Exception) -> RayTaskError:
    return RayTaskError("call", "", error)


@pytest.mark.parametrize(
    ("errors", "silent", "means_lost"),
    [
        ([raised(ValueError("its reward is None"))], 0, False),
        ([raised(ValueError("its reward is None"))], 1, False),  # the silent rank waits for this one in a collective
        ([raised(RuntimeError("connection closed by peer"))], 1, True),  # a node is gone, and Ray does not know yet
        ([raised(RuntimeError("out of memory"))], 0, False),
        ([raised(RuntimeError("connection closed by peer")), RayActorError()], 0, True),
    ],
)
def test_a_silent_rank_is_lost_where_its_neighbours_miss_it(
    errors: list[Exception], silent: int, means_lost: bool
) -> None:
    assert lost(errors, silent=silent) is means_lost


@pytest.mark.engine
@pytest.mark.usefixtures("ray_cluster")
def test_start_has_a_deadline(tiny_checkpoint: Path) -> None:
    with pytest.raises(LearnerError, match=r"ranks \[0\] of 1 did not finish in time"):
        LearnerGang(LearnerSettings(start_timeout_s=0.05), checkpoint=tiny_checkpoint, temperature=1.0)


@pytest.mark.engine
@pytest.mark.usefixtures("ray_cluster")
def test_a_gang_that_lost_a_rank_goes_on_from_its_last_state(
    tiny_checkpoint: Path, random_trajectories: Callable[..., list[Trajectory]], tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    batches = [random_trajectories(rng, 3, 3) for _ in range(3)]
    gang = LearnerGang(SETTINGS, checkpoint=tiny_checkpoint, temperature=1.0)
    try:
        gang.train_step(batches[0])
        gang.save_state(tmp_path / "state")
        wanted, probe = gang.train_step(batches[1]), gang.logprobs(PROBE)
        with pytest.raises(LearnerError, match=r"2 of 2 ranks failed: FileNotFoundError: learner state") as found:
            gang.load_state(tmp_path)
        assert not isinstance(found.value, RankLost), "what a rank raises is no lost rank"
        os.kill(gang.pids()[1], signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(RankLost, match=r"train_step: .* of 2 ranks failed"):
            gang.train_step(batches[2])
        assert time.monotonic() - began < 30, "the loss of a rank must be noticed long before the deadline"
        assert gang.restart() == 1
        again = gang.train_step(batches[1])
        assert {k: again[k] for k in again.keys() - TIMED} == {k: wanted[k] for k in wanted.keys() - TIMED}
        assert gang.logprobs(PROBE) == probe
        with pytest.raises(RuntimeError, match=r"after 1 restarts \(learner.max_restarts=1\)"):
            gang.restart()
    finally:
        gang.shutdown()
