"""A run outlives the death of its parts: real processes are killed with -9, and the end is as if they had not been.

One undisturbed run is the measure. Two cores, so few runs: each of the others takes several blows.
"""

from __future__ import annotations

import collections
import re
import signal
import sqlite3
import time
from pathlib import Path

import psutil
import pytest
from processes import Program

from cluster.run_folder import RunFolder

pytestmark = [pytest.mark.engine, pytest.mark.slow]

_CODE = "import sys; sys.argv[0] = 'router-r1'; from cluster.cli import main; main()"
STEPS = 6
_SMALL = (
    f"run.steps={STEPS}", "run.groups_per_step=4", "run.group_size=4", "data.eval_questions=16",
    "run.checkpoint_every=2", "run.retry_pause_s=1", "tracking.wandb=disabled",
)  # fmt: skip


def start(folder: Path, name: str, *overrides: str) -> Program:
    return Program(_CODE, ["train", "quickstart", f"run.folder={folder}", f"run.name={name}", *_SMALL, *overrides])


def finish(run: Program, timeout_s: float = 400) -> None:
    """Wait for a good end that leaves no process behind."""
    try:
        assert run.process.wait(timeout_s) == 0, run.output
    finally:
        left = run.left()
    assert left == []


def find(run: Program, title: str) -> psutil.Process:
    """The youngest process of a run whose command line holds `title`."""
    found = []
    for process in run.family():
        try:
            if title in " ".join(process.cmdline()):
                found.append((process.create_time(), process))
        except psutil.NoSuchProcess:
            continue
    assert found, f"no process of the run is called {title!r}"
    return max(found, key=lambda pair: pair[0])[1]


def weights(folder: RunFolder) -> bytes:
    return (folder.checkpoint(STEPS) / "model.safetensors").read_bytes()


def check_whole(folder: RunFolder) -> None:
    """Steps are consecutive, each learnt from once, and no call of the ledger was made twice at one place."""
    rows = folder.read_metrics()
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    assert [row["policy/version"] for row in rows[1:]] == list(range(1, STEPS + 1))
    assert all(row["learner/optimizer_steps"] >= 1 for row in rows[1:])
    with sqlite3.connect(folder.ledger_file) as ledger:
        places = ledger.execute(
            "SELECT step, episode, turn, call_index, request_hash FROM ledger_calls WHERE status = 'ok'"
        ).fetchall()
        unsettled = ledger.execute("SELECT count(*) FROM ledger_calls WHERE status = 'open'").fetchone()[0]
    doubles = {place: count for place, count in collections.Counter(places).items() if count > 1}
    assert doubles == {}
    assert unsettled == 0
    assert places


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(folder, "whole"))
    run = RunFolder(folder / "whole")
    check_whole(run)
    return run


def test_a_killed_driver_goes_on_and_ends_with_the_same_parameters(undisturbed: RunFolder, tmp_path: Path) -> None:
    """Killed in the first steps, before there is a checkpoint, then later; each time the same command goes on."""
    again = ("run.if_exists=resume",)
    for said in ("step 1/", "step 5/"):
        run = start(tmp_path, "killed", *again)
        run.wait_for(said, 300)
        run.process.kill()
        run.process.wait(30)
        assert run.left(30) == []
    run = start(tmp_path, "killed", *again)
    finish(run)
    assert "going on from step_00000" in run.output
    folder = RunFolder(tmp_path / "killed")
    check_whole(folder)
    assert weights(folder) == weights(undisturbed)
    rows, whole = folder.read_metrics(), undisturbed.read_metrics()
    assert [row.get("reward/mean") for row in rows] == [row.get("reward/mean") for row in whole]


def test_workers_learner_and_caller_die_and_the_run_goes_on(undisturbed: RunFolder, tmp_path: Path) -> None:
    """Two workers; an engine's core, a worker, a rank and the caller are killed, one after the other."""
    run = start(tmp_path, "struck", "placement.rollout_workers=2", "candidates.latency_scale=0.5")
    blows: list[tuple[str, str]] = [
        ("step 1/", "VLLM::EngineCore"),
        ("step 2/", "ray::RankProcess"),
        ("step 4/", "ray::CandidateCaller"),
        ("step 5/", "ray::RolloutWorker"),
    ]
    try:
        for said, title in blows:
            run.wait_for(said, 300)
            time.sleep(0.3)
            find(run, title).kill()
        finish(run, 600)
    finally:
        run.process.kill()
        run.left()
    folder = RunFolder(tmp_path / "struck")
    check_whole(folder)
    log = folder.log_file.read_text()
    assert len(re.findall(r"rollout worker \d is lost", log)) >= 2
    assert "learner gang restarted from batch 2" in log or "learner gang restarted from batch 0" in log
    # Each question was trained on once, whatever was played again: the same ones came in the same order.
    assert folder.read_metrics()[-1]["rollout/worker_restarts"] >= 2


def test_stale_by_two_versions_a_run_trains_and_says_so(tmp_path: Path) -> None:
    run = start(tmp_path, "stale", "run.max_staleness=2")
    finish(run)
    folder = RunFolder(tmp_path / "stale")
    check_whole(folder)
    staleness = [row["rollout/staleness"] for row in folder.read_metrics()[1:]]
    assert max(staleness) > 0
    assert max(staleness) <= 2
    assert all("policy/importance_mean" in row for row in folder.read_metrics()[1:])


def test_a_second_driver_on_the_same_run_is_refused(tmp_path: Path) -> None:
    first = start(tmp_path, "one")
    try:
        first.wait_for("start Ray", 60)
        second = Program(_CODE, ["train", "--resume", str(tmp_path / "one")])
        assert second.process.wait(60) == 2
        time.sleep(0.2)
        assert "another process trains in it now" in second.output
    finally:
        first.stop(signal.SIGINT, 120)
        first.left()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("run.seed=4",), "start another"),
        (("rewards.alpha=0.5",), "--force"),
        (("data.train_limit=7",), "start another"),
    ],
)
def test_another_run_s_resume_is_refused(undisturbed: RunFolder, overrides: tuple[str, ...], message: str) -> None:
    run = Program(_CODE, ["train", "--resume", str(undisturbed.path), *overrides])
    assert run.process.wait(60) == 2
    time.sleep(0.2)
    assert message in run.output
    assert "Traceback" not in run.output
