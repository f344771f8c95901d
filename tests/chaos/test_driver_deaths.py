"""A run whose driver is killed with -9 in any phase ends with the same parameters as a run that is left alone."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from processes import Program
from struck import CODE, Struck

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 6
# Calls take a second, so that a blow can hit the middle of a phase.
_SETTINGS = (f"run.steps={STEPS}", "run.checkpoint_every=2", "candidates.latency_scale=1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Struck:
    run = Struck(tmp_path_factory.mktemp("undisturbed"), "whole", *_SETTINGS)
    run.finish()
    run.check(STEPS)
    return run


def test_killed_in_every_phase_it_goes_on_and_ends_with_the_same_parameters(
    undisturbed: Struck, tmp_path: Path
) -> None:
    """The driver is killed before the first checkpoint, while one is written, and during learning, sync and rollout."""
    run = Struck(tmp_path, "killed", *_SETTINGS)
    run.wait_for_log("step 1: learn")
    run.kill_driver()
    run.start()
    run.wait_until(lambda: run.writes_checkpoint(2), "write checkpoint 2")
    run.kill_driver()
    assert not run.folder.checkpoint(2).exists()
    for moment in ("step 4: sync", "step 5: roll out"):
        run.start()
        run.wait_for_log(moment)
        time.sleep(0.1)
        run.kill_driver()
    run.start()
    run.finish()
    assert "going on from step_00000" in run.program.output
    run.check(STEPS)
    assert run.weights(STEPS) == undisturbed.weights(STEPS)
    assert run.trained() == undisturbed.trained()
    rows, whole = run.folder.read_metrics(), undisturbed.folder.read_metrics()
    assert [row.get("reward/mean") for row in rows] == [row.get("reward/mean") for row in whole]


def test_stale_by_two_versions_a_run_trains_and_says_so(tmp_path: Path) -> None:
    run = Struck(tmp_path, "stale", *_SETTINGS, "run.max_staleness=2", "run.eval_every=2")
    run.finish()
    run.check(STEPS)
    rows = run.folder.read_metrics()[1:]
    staleness = [row["rollout/staleness"] for row in rows]
    assert max(staleness) > 0
    assert max(staleness) <= 2
    assert all("policy/importance_mean" in row for row in rows)
    evaluated = {row["eval/version"]: row["step"] for row in rows if "eval/em" in row}  # beside training
    assert set(evaluated) == {2, 4, STEPS}
    assert evaluated[2] > 2
    assert json.loads(run.folder.summary_file.read_text())["after_step"] == STEPS


def test_a_second_driver_on_the_same_run_is_refused(undisturbed: Struck, tmp_path: Path) -> None:
    first = Struck(tmp_path, "one", *_SETTINGS)
    try:
        first.program.wait_for("start Ray", 60)
        second = Program(CODE, ["train", "--resume", str(tmp_path / "one")])
        assert second.process.wait(60) == 2
        time.sleep(0.2)
        assert "another process trains in it now" in second.output
    finally:
        first.program.stop(signal.SIGINT, 120)
        first.program.left()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("run.seed=4",), "start another"),
        (("rewards.alpha=0.5",), "--force"),
        (("data.train_limit=7",), "start another"),
    ],
)
def test_another_run_s_resume_is_refused(undisturbed: Struck, overrides: tuple[str, ...], message: str) -> None:
    run = Program(CODE, ["train", "--resume", str(undisturbed.folder.path), *overrides])
    assert run.process.wait(60) == 2
    time.sleep(0.2)
    assert message in run.output
    assert "Traceback" not in run.output
