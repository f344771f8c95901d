"""Programs of ours started as a user would, and what they leave behind."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from user_files import Form, were_run, write_user_files

from cluster.session.reaper import GRACE_S


def command(process: psutil.Process) -> list[str]:
    """Its command line, or nothing of a process that has ended since it was found."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


class Program:
    """A Python program in a process group of its own; its output is read line by line.

    It is started as the installed script is, in a folder of a user whose files are named like our packages.
    """

    def __init__(self, code: str, arguments: Sequence[str] = (), user_files: Form = "files") -> None:
        self._user = Path(tempfile.mkdtemp(prefix="router-r1-user-"))
        write_user_files(self._user, user_files)
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, *arguments],
            cwd=self._user,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=environment | {"OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
        )
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._family: dict[int, psutil.Process] = {}
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Take note of the family while the program runs: once it has ended, nothing leads to them any more."""
        while self.process.poll() is None:
            self.family()
            time.sleep(0.3)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self._queue.put(line)
        self._queue.put(None)

    @property
    def output(self) -> str:
        """What it has said so far: all of it, once it has ended."""
        if self.process.poll() is not None:
            self._reader.join(10)  # longer only where something that it left behind holds its output open
        return "".join(self.lines)

    def wait_for(self, text: str, timeout_s: float) -> str:
        """The first line of output that holds `text`."""
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0:
            try:
                line = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                raise AssertionError(f"the program ended before it said {text!r}:\n{self.output}")
            if text in line:
                return line
        raise AssertionError(f"the program did not say {text!r} within {timeout_s:g} s:\n{self.output}")

    def family(self) -> list[psutil.Process]:
        """The processes below the program's, also those that it started earlier and that still run."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        with self._lock:
            self._family |= {process.pid: process for process in found}
            return [process for process in self._family.values() if process.is_running()]

    def stop(self, number: signal.Signals, timeout_s: float) -> int:
        """Send the signal to the program's own process and wait for its end; return its exit code."""
        self.family()
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def left(self, timeout_s: float = GRACE_S + 20) -> list[str]:
        """What of its family still runs `timeout_s` after its end; those are killed. The user's folder goes.

        The reaper is of the family and may take its whole grace, so that less time than that would tell nothing.
        """
        assert self._family, "the program never started another; there was nothing to leave behind"
        _, alive = psutil.wait_procs(self.family(), timeout=timeout_s)
        names = []
        for process in alive:
            try:
                if process.status() != psutil.STATUS_ZOMBIE:
                    names.append(" ".join(process.cmdline()))
                    process.kill()
            except psutil.NoSuchProcess:
                continue  # ended as it was looked at
        wrongly_run = were_run(self._user)
        shutil.rmtree(self._user, ignore_errors=True)
        assert wrongly_run == [], "files of the user's were run in place of our packages"
        return names
