"""The stacks: they name the function that hangs, also in a child process; missing stacks are explained, not raised."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.stacks import dump_family, write_stacks
from cluster.session.watchdog import Watchdog

_CODE = """
import multiprocessing, time
def stuck_below():
    print("up", flush=True)
    time.sleep(60)
def stuck_above():
    multiprocessing.get_context("fork").Process(target=stuck_below, daemon=True).start()
    time.sleep(60)
stuck_above()
"""


@pytest.fixture
def stuck() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", _CODE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(0.2)
        yield process
        process.kill()


def test_they_name_what_hangs_in_a_whole_family(stuck: subprocess.Popen[str]) -> None:
    text = dump_family(stuck.pid)
    if "ermission" in text:
        pytest.skip("this machine lets no process look at another")
    assert "stuck_above" in text
    assert "stuck_below" in text


def test_a_process_that_is_gone_is_told() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert f"process {process.pid} is gone" in dump_family(process.pid)


def test_a_folder_that_cant_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert write_stacks(tmp_path / "file" / "stalls", "worker", "text") is None
    assert "can't be written" in caplog.text


def test_a_phase_that_stalls_is_named_once_with_its_stacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watchdog = Watchdog(tmp_path / "stalls", 0.2)
    with caplog.at_level(logging.WARNING):
        watchdog.phase("step 3: sync")
        until = time.monotonic() + 60
        while "has taken more than" not in caplog.text and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.3)
        watchdog.close()
    assert caplog.text.count("step 3: sync has taken more than run.stall_s=0.2 s") == 1
    (file,) = (tmp_path / "stalls").iterdir()
    assert file.name.endswith("_step_3_sync.txt")
    assert file.read_text()
