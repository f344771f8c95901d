"""Starts our programs as a user would, and finds the processes that they leave behind."""

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
    """The process's command line; empty if the process has ended."""
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
        """Record the family while the program runs: after its end, its children can no longer be found through it."""
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
        """The output so far, and all of it once the program has ended."""
        if self.process.poll() is not None:
            self._reader.join(10)  # ends at once unless a process left behind keeps the output open
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
        """The program's descendants that still run, also those that are no longer below it in the process tree."""
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
        """Command lines of the family's processes that still run after `timeout_s`; kills these processes.

        Checks, too, that no file of the user's was run, and removes the user's folder.

        The reaper belongs to the family and may use its whole grace period, so a shorter timeout would prove nothing.
        """
        assert self._family, "the program never started another process, so this test would prove nothing"
        _, alive = psutil.wait_procs(self.family(), timeout=timeout_s)
        names = []
        for process in alive:
            try:
                if process.status() != psutil.STATUS_ZOMBIE:
                    names.append(" ".join(process.cmdline()))
                    process.kill()
            except psutil.NoSuchProcess:
                continue  # the process ended just now
        were = were_run(self._user)
        shutil.rmtree(self._user, ignore_errors=True)
        assert were == [], "files of the user's were run in place of our packages"
        return names
