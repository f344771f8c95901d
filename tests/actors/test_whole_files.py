"""Whole files: what is written takes its place by one rename, on the disk before that; a failure leaves what was."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors import whole_files
from actors.whole_files import is_unfinished, replacing, stage_of, staged_folder, write_whole


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old", encoding="utf-8")
    file.chmod(0o640)
    write_whole(file, "n\u00e4u \ud800")
    assert file.read_text(encoding="utf-8") == "n\u00e4u \\ud800"
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_fails_leaves_what_was(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_whole(file, "old")

    def fail() -> None:
        with replacing(file) as unfinished:
            unfinished.write_text("half", encoding="utf-8")
            assert is_unfinished(unfinished)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert file.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "nowhere" / "a.json", "new")


def test_a_file_killed_half_way_leaves_what_was(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_whole(file, "old")
    code = """
import os, signal, sys
from pathlib import Path
from actors.whole_files import replacing
with replacing(Path(sys.argv[1])) as unfinished:
    unfinished.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, str(file)], check=False, timeout=60).returncode == -9
    assert file.read_text(encoding="utf-8") == "old"
    [left] = [path for path in tmp_path.iterdir() if path != file]
    assert is_unfinished(left)
    write_whole(file, "new")  # what the dead left is in nobody's way
    assert file.read_text(encoding="utf-8") == "new"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "sub" / "step"
    for name in ("one", "two"):
        with staged_folder(folder) as stage:
            assert stage == stage_of(folder)
            (stage / "in").mkdir()
            (stage / "in" / name).write_text(name, encoding="utf-8")
    assert [path.name for path in (folder / "in").iterdir()] == ["two"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_that_fails_leaves_what_was(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    with staged_folder(folder) as stage:
        (stage / "file").write_text("old", encoding="utf-8")
    stage_of(folder).mkdir()
    (stage_of(folder) / "of the dead").touch()

    def stop() -> None:
        with staged_folder(folder) as stage:
            assert not list(stage.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert (folder / "file").read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_what_is_written_is_synced_before_its_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder, synced = tmp_path / "a.json", tmp_path / "step", []

    def sync(path: Path) -> None:
        synced.append((path, file.exists() or folder.exists()))

    monkeypatch.setattr(whole_files, "sync", sync)
    with replacing(file) as unfinished:
        unfinished.touch()
    assert synced == [(unfinished, False), (tmp_path, True)]
    file.unlink()
    synced.clear()
    with staged_folder(folder) as stage:
        (stage / "weights").touch()
    assert synced == [(stage / "weights", False), (stage, False), (tmp_path, True)]


def test_what_a_killed_writer_left_goes_with_a_later_write(tmp_path: Path) -> None:
    file, old, new = tmp_path / "a.txt", tmp_path / ".a.txt.1-0.partial", tmp_path / ".a.txt.2-0.partial"
    for left in (old, new):
        left.write_text("half")
    hours_ago = time.time() - 7200
    os.utime(old, (hours_ago, hours_ago))
    write_whole(file, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([file, new])  # another process may be writing the new one
