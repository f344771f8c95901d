"""Ends the processes that a driver has started on its machine once the driver is gone, even if it was killed.

Ray's daemons notice that their driver was killed, but two of Ray's agents then wait a minute or more for a control
store that is gone, too. `python -m cluster.session.reaper PID` watches the driver from a session of its own, so that
no signal to the driver's process group reaches it.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO

import psutil  # type: ignore[import-untyped]

from actors.child_process import child_environment, python_command

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 3.0
GRACE_S = 10.0  # for processes to stop by themselves
_POLL_S = 0.2


def start_reaper() -> None:
    """Start a process that watches this one; call it before starting others. A warning says if it can't watch."""
    said = tempfile.TemporaryFile()  # noqa: SIM115  # the thread below reads it
    try:
        reaper = subprocess.Popen(
            python_command("-m", __name__, str(os.getpid())),
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
            close_fds=True,
        )
    except OSError as error:
        _warn(str(error))
        return
    threading.Thread(target=_tell_of_end, args=(reaper, said), name="reaper-watch", daemon=True).start()


def _tell_of_end(reaper: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    """Wait for the end of the reaper, and warn: it should live longer than this process."""
    code = reaper.wait()
    said.seek(0)
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    _warn(f"it ended with code {code}: {lines[-1] if lines else 'it said nothing'}")


def _warn(why: str) -> None:
    logger.warning(
        "the reaper can't watch this program (%s); if this program is killed, end the processes that it leaves by hand",
        why,
    )


def reap(driver: int) -> None:
    """Record the driver's descendants until it ends, then kill those that still run after `GRACE_S` seconds."""
    try:
        handle = os.pidfd_open(driver)
        process = psutil.Process(driver)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return
    family: set[psutil.Process] = set()
    while not select.select([handle], [], [], _LOOK_EVERY_S)[0]:
        try:
            family |= set(process.children(recursive=True))
        except psutil.NoSuchProcess:
            break
        family = {member for member in family if _runs(member) and member.pid != os.getpid()}
    family |= _descendants(family)  # processes that these started since the last look
    until = time.monotonic() + GRACE_S
    while (alive := {member for member in family if _runs(member)}) and time.monotonic() < until:
        time.sleep(_POLL_S)
    for member in alive | _descendants(alive):
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def _runs(member: psutil.Process) -> bool:
    """Whether a process still runs. A zombie does not: its new parent may take long to collect it."""
    try:
        return bool(member.is_running() and member.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _descendants(family: set[psutil.Process]) -> set[psutil.Process]:
    """All descendants of the processes that still exist."""
    found: set[psutil.Process] = set()
    for member in family:
        try:
            found |= set(member.children(recursive=True))
        except psutil.NoSuchProcess:
            continue
    return found


if __name__ == "__main__":
    reap(int(sys.argv[1]))
