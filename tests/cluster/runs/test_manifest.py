"""The manifest: read back as written, refused if a run can't resume from it, and which settings may change."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import MANIFEST, trajectory

from cluster.config.loading import load_config
from cluster.runs.manifest import (
    FILE,
    STATE,
    ResumeError,
    check_same_run,
    fingerprint,
    read_manifest,
)


def checkpoint(folder: Path) -> Path:
    (folder / STATE).mkdir()
    (folder / STATE / "policy-00000.safetensors").write_bytes(b"12345")
    (folder / "config.json").write_text("{}")
    MANIFEST.write(folder)
    return folder


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    files = {"config.json": 2, f"{STATE}/policy-00000.safetensors": 5}
    assert read_manifest(checkpoint(tmp_path)) == replace(MANIFEST, files=files)


def test_what_was_added_later_does_no_harm(tmp_path: Path) -> None:
    (checkpoint(tmp_path) / "README.md").write_text("our best")
    assert read_manifest(tmp_path).step == MANIFEST.step


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / FILE).unlink(), "policy.checkpoint="),
        (lambda folder: (folder / FILE).write_text("{"), "damaged"),
        (lambda folder: (folder / FILE).write_text("[]"), "damaged"),
        (lambda folder: (folder / FILE).write_text(json.dumps({"format": 1})), "damaged"),
        (lambda folder: (folder / FILE).write_text(json.dumps({"format": 99})), "format 99"),
        (lambda folder: shutil.rmtree(folder / STATE), "learner state"),
        (lambda folder: (folder / STATE / "policy-00000.safetensors").write_bytes(b"1234"), "policy-00000.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing or cut short"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path: Path, spoil: object, message: str) -> None:
    folder = checkpoint(tmp_path)
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(ResumeError, match=message):
        read_manifest(folder)


def test_questions_are_told_apart() -> None:
    one = trajectory("a").question
    assert fingerprint([one]) == fingerprint([one])
    assert fingerprint([one]) != fingerprint([one, one])


@pytest.mark.parametrize("override", ["run.steps=99", "placement.rollout_workers=3", "learner.ranks=2",
                                      "candidates.pool.cap_usd_per_run=5", "tracking.wandb=offline"])  # fmt: skip
def test_where_and_how_far_it_goes_may_change(override: str) -> None:
    check_same_run(load_config("quickstart").dump(), load_config("quickstart", [override]), force=False)


def test_a_setting_that_came_with_a_later_version_had_its_default() -> None:
    before = load_config("quickstart").dump()
    del before["run"]["max_refills"], before["learner"]["optimizer"]["lr"]
    check_same_run(before, load_config("quickstart", ["learner.optimizer.lr=1e-6"]), force=False)
    with pytest.raises(ResumeError, match=r"learner\.optimizer\.lr: 1e-06 then, 0\.1 now"):
        check_same_run(before, load_config("quickstart", ["learner.optimizer.lr=0.1"]), force=False)
    before["run"]["gone"] = 3
    with pytest.raises(ResumeError, match=r"run\.gone: 3 then, None now"):
        check_same_run(before, load_config("quickstart", ["learner.optimizer.lr=1e-6"]), force=False)


@pytest.mark.parametrize("override", ["rewards.alpha=0.5", "learner.optimizer.lr=0.1", "run.max_staleness=1"])
def test_what_changes_the_course_of_learning_must_be_forced(override: str) -> None:
    before, now = load_config("quickstart").dump(), load_config("quickstart", [override])
    with pytest.raises(ResumeError, match=override.partition("=")[0] + r".*then.*\n.*--force"):
        check_same_run(before, now, force=False)
    check_same_run(before, now, force=True)


@pytest.mark.parametrize(
    "override", ["run.seed=5", "policy.checkpoint=smollm2", "run.group_size=4", "data.train_limit=9"]
)
def test_what_makes_it_another_run_can_t_be_forced(override: str) -> None:
    with pytest.raises(ResumeError, match=override.partition("=")[0] + r".*\n.*start another"):
        check_same_run(load_config("quickstart").dump(), load_config("quickstart", [override]), force=True)
