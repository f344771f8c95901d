"""The scratch folder: removed with its engine or, if its owner was killed, when the next folder is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.engine import scratch as module
from actors.engine.scratch import PREFIX, Scratch, remove_own_scratch

OWNER = """
import sys, time
from actors.engine.scratch import Scratch
print(Scratch().path, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def owner() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait(10)


def test_it_goes_with_what_is_in_it(temporary: Path) -> None:
    made = Scratch()
    (made.path / "socket").touch()
    assert list(temporary.iterdir()) == [made.path]
    made.close()
    assert list(temporary.iterdir()) == []


def test_what_a_killed_owner_left_goes_as_the_next_is_made(
    owner: tuple[subprocess.Popen[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, left = owner
    monkeypatch.setattr(module, "_YOUNG_S", -1)
    Scratch().close()
    assert left.is_dir()  # its owner lives
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    Scratch().close()
    assert not left.exists()


def test_a_young_one_and_a_stranger_stay(temporary: Path) -> None:
    young = temporary / f"{module.PREFIX}young"
    young.mkdir()
    (young / "owner").touch()  # the file is not locked yet
    stranger = temporary / f"{module.PREFIX}stranger"
    stranger.mkdir()
    Scratch().close()
    assert young.is_dir()
    assert stranger.is_dir()


@pytest.mark.parametrize(("name", "stays"), [(f"{PREFIX}mine", False), ("of-the-user", True)])
def test_a_process_removes_its_folder_of_temporary_files_only_if_that_is_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stays: bool
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    remove_own_scratch()
    assert folder.exists() == stays
