"""A train program: `router-r1 train` as a process, for measurements that watch whole runs or kill their processes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from actors.child_process import child_environment, python_command
from cluster.runs.folder import RunFolder

_CODE = "import sys; sys.argv[0] = 'router-r1'; from cluster.cli.app import main; main()"
_POLL_S = 0.2
_END_S = 90.0


class TrainProgramError(RuntimeError):
    """A run did not do what its measurement needs; the message has the end of the run's output."""


class TrainProgram:
    """A run of the quickstart, which is resumed if its folder exists."""

    def __init__(self, folder: Path, name: str, overrides: Sequence[str]) -> None:
        self.folder = RunFolder(folder / name)
        self._arguments = ["train", "quickstart", f"run.folder={folder}", f"run.name={name}", "run.if_exists=resume"]
        self._arguments += ["tracking.wandb=disabled", *overrides]
        self._output_file = folder / f"{name}.out"
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def __enter__(self) -> TrainProgram:
        self._output = self._output_file.open("ab")
        self._process = subprocess.Popen(
            python_command("-c", _CODE, *self._arguments),
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        """End the run and all processes that it started."""
        family = self.family()
        self.kill()
        alive = psutil.wait_procs(family, timeout=_END_S)[1]  # the run's reaper ends them
        for process in alive:
            process.kill()
        if self._output is not None:
            self._output.close()

    @property
    def ended(self) -> bool:
        return self._running.poll() is not None

    def family(self) -> list[psutil.Process]:
        """The processes below the run's own; none once it has ended."""
        try:
            return psutil.Process(self._running.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """Kill the run's own process with -9, if it still runs."""
        if not self.ended:
            self._running.kill()
        self._running.wait()

    def wait(self, timeout_s: float) -> None:
        """Wait until the run has ended with status 0.

        Raises:
            TrainProgramError: it ended with another status, or not within `timeout_s` seconds.
        """
        try:
            status = self._running.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TrainProgramError(f"{self.folder.path} did not end within {timeout_s:g} s:\n{self.tail()}") from error
        if status != 0:
            raise TrainProgramError(f"{self.folder.path} ended with status {status}:\n{self.tail()}")

    def wait_for_step(self, step: int, timeout_s: float) -> None:
        """Wait until a step is done.

        Raises:
            TrainProgramError: the run ended before, or the step was not done within `timeout_s` seconds.
        """
        until = time.monotonic() + timeout_s
        while self.newest_step() < step:
            if self.ended or time.monotonic() > until:
                why = "ended before" if self.ended else f"took more than {timeout_s:g} s to"
                raise TrainProgramError(f"{self.folder.path} {why} step {step}:\n{self.tail()}")
            time.sleep(_POLL_S)

    def check_running(self) -> None:
        """Check that the run goes on.

        Raises:
            TrainProgramError: it has ended.
        """
        if self.ended:
            raise TrainProgramError(f"{self.folder.path} ended in mid-measurement:\n{self.tail()}")

    def newest_step(self) -> int:
        """The newest step whose metrics are written; -1 before the first."""
        rows = self.folder.read_metrics()
        return int(rows[-1]["step"]) if rows else -1

    def summary(self) -> dict[str, Any]:
        """The summary of the run, once it has ended."""
        found: dict[str, Any] = json.loads(self.folder.summary_file.read_text(encoding="utf-8"))
        return found

    def tail(self) -> str:
        """The last lines of its output."""
        return "\n".join(self._output_file.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the program was not entered"
        return self._process
