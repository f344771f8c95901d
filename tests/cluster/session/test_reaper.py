"""The reaper: it ends the processes that a killed driver leaves, and does not wait for a zombie."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

import pytest

from cluster.session import reaper

pytestmark = pytest.mark.thorough

# The script adopts the processes that its driver leaves, and collects none until the reaper is done. The driver starts
# a child that stops by itself soon after its parent's death, or one that never stops.
SCRIPT = """
    import ctypes, multiprocessing, os, signal, subprocess, sys, time

    import psutil

    from cluster.session import reaper

    stops = sys.argv[1] == "stops"
    fork = multiprocessing.get_context("fork")

    def driver(pipe):
        code = "import os, time; me = os.getppid()\\nwhile os.getppid() == me: time.sleep(0.05)"
        child = subprocess.Popen([sys.executable, "-c", code if stops else "import time; time.sleep(600)"])
        pipe.send(child.pid)
        time.sleep(600)

    PR_SET_CHILD_SUBREAPER = 36
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    reaper.GRACE_S, reaper._LOOK_EVERY_S = 5.0, 0.2
    receiver, sender = fork.Pipe(duplex=False)
    head = fork.Process(target=driver, args=(sender,))
    head.start()
    child = psutil.Process(receiver.recv())
    watcher = fork.Process(target=reaper.reap, args=(head.pid,))
    watcher.start()
    time.sleep(3)  # the reaper has looked
    os.kill(head.pid, signal.SIGKILL)
    killed = time.monotonic()
    watcher.join(60)
    took = time.monotonic() - killed
    while child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < killed + 30:
        time.sleep(0.05)  # it may still be dying
    print(child.status(), "grace" if took >= reaper.GRACE_S else "at once")
"""


def _reaped(child: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), child], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_who_does_not_stop_is_killed_after_a_grace() -> None:
    assert _reaped("stays") == "zombie grace"


def test_a_dead_process_that_nobody_collects_is_not_waited_for() -> None:
    assert _reaped("stops") == "zombie at once"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ([sys.executable, "-P", "-c", "raise SystemExit('no such call')"], "it ended with code 1: no such call"),
        (["/nowhere/python"], "[Errno 2] No such file or directory: '/nowhere/python'"),
    ],
)
def test_a_reaper_that_can_not_watch_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, command: list[str], why: str
) -> None:
    monkeypatch.setattr(reaper, "python_command", lambda *arguments: command)
    reaper.start_reaper()
    for thread in threading.enumerate():
        if thread.name == "reaper-watch":
            thread.join(60)
    assert f"the reaper can't watch this program ({why})" in caplog.text
