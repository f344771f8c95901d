"""Checkpoints on disk: complete or absent, and a failed one leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.checkpoint import staged


def no_barrier() -> None:
    pass


def test_a_directory_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with staged(tmp_path / "step", leader=True, barrier=no_barrier) as stage:
            (stage / "file").write_text(content)
    assert [path.name for path in tmp_path.iterdir()] == ["step"]
    assert (tmp_path / "step" / "file").read_text() == "new"


@pytest.mark.parametrize("late", [False, True], ids=["in_filling", "at_the_barrier"])
def test_a_failure_leaves_no_partial_directory_and_the_old_one_as_it_was(tmp_path: Path, late: bool) -> None:
    path = tmp_path / "step"
    path.mkdir()
    (path / "file").write_text("old")
    passed: list[None] = []

    def barrier() -> None:
        passed.append(None)
        if late and len(passed) == 2:
            raise OSError("another rank is gone")

    def save() -> None:
        with staged(path, leader=True, barrier=barrier) as stage:
            (stage / "file").write_text("new")
            if not late:
                raise OSError("the disk is full")

    with pytest.raises(OSError, match="gone" if late else "full"):
        save()
    assert [entry.name for entry in tmp_path.iterdir()] == ["step"]
    assert (path / "file").read_text() == "old"
