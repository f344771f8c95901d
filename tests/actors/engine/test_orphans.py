"""Orphans: when the owner ends, the engine core ends too, and no other process does."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

# The reaper adopts orphans among its descendants, as an init process or a container's shim does. It starts an owner, a
# core, and as the core's child a worker that watches the owner; then the owner ends.
SCRIPT = """
    import ctypes, multiprocessing, os, subprocess, sys, time

    core_dies_first = sys.argv[1] == "core_dies_first"
    fork = multiprocessing.get_context("fork")

    def worker(owner, parent, ready):
        from actors.engine.orphans import OWNER_VARIABLE, exit_with_owner

        while core_dies_first and os.getppid() == parent:
            time.sleep(0.01)
        os.environ[OWNER_VARIABLE] = str(owner)
        exit_with_owner()
        ready.send(os.getpid())
        time.sleep(60)

    def core(owner, ready):
        fork.Process(target=worker, args=(owner, os.getpid(), ready)).start()
        if core_dies_first:
            os._exit(0)
        time.sleep(60)

    def ended(pid):
        for _ in range(1000):
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass  # not adopted yet, or gone
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.01)
        return False

    PR_SET_CHILD_SUBREAPER = 36
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    owner = subprocess.Popen(["sleep", "60"])
    receiver, sender = fork.Pipe(duplex=False)
    middle = fork.Process(target=core, args=(owner.pid, sender))
    middle.start()
    assert receiver.poll(20)
    pid = receiver.recv()
    owner.kill()
    owner.wait()
    assert ended(pid), "the worker lives on"
    middle.join(10)
    print(f"core ended with {middle.exitcode}")
"""


@pytest.mark.parametrize(("when", "core"), [("core_dies_first", "0"), ("core_lives", "-9")])
def test_a_worker_ends_its_core_and_never_whoever_adopted_it(when: str, core: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), when], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"core ended with {core}"
