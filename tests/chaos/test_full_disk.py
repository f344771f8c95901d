"""A disk that fills up during a run: one clear error, no half-written file, and with room again the run goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from struck import Struck

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 4


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if mounted.returncode:
        pytest.skip(f"no mounting here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True, timeout=30)


def test_a_full_disk_stops_the_run_with_one_error_and_it_goes_on_later(disk: Path) -> None:
    run = Struck(disk, "full", f"run.steps={STEPS}", "run.checkpoint_every=1", "candidates.latency_scale=2")
    run.wait_until(lambda: run.folder.checkpoint(1).exists(), "write checkpoint 1")
    filler = disk / "filler"
    with filler.open("wb") as file, pytest.raises(OSError, match="No space"):
        file.write(b"x" * (400 << 20))
    try:
        assert run.program.process.wait(120) == 2, run.program.output
    finally:
        left = run.program.left()
    assert left == []
    said = run.program.output
    assert "the disk is full" in said or "disk is full" in said, said
    assert "Traceback" not in said
    filler.unlink()
    run.start()
    run.finish()
    run.check(STEPS)
    assert len(run.trained()) == STEPS
