"""Ends what a driver has started on its machine once the driver is gone, however it went.

Ray's daemons notice that their driver was killed, but two of its agents then wait a minute or more for a control
store that is gone, too. `python -m cluster.session.reaper PID` watches beside the driver, in a session of its own, so
that no signal for the driver's group reaches it.
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
GRACE_S = 10.0  # in which whatever stops by itself does so in order
_POLL_S = 0.2


def start_reaper() -> None:
    """Start watching this process; called before it starts others. A reaper that can't watch is told of in the log."""
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
    """Wait for the end of the reaper, which lives longer than we do unless something is wrong."""
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
    """Keep account of the driver's family until it ends, then end those who are left after a grace."""
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
    family |= _descendants(family)  # born since the last look: the driver can't be asked any more
    until = time.monotonic() + GRACE_S
    while (alive := {member for member in family if _runs(member)}) and time.monotonic() < until:
        time.sleep(_POLL_S)
    for member in alive | _descendants(alive):
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def _runs(member: psutil.Process) -> bool:
    """Whether there is still something to end; whoever adopted a dead process may take long to collect it."""
    try:
        return bool(member.is_running() and member.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _descendants(family: set[psutil.Process]) -> set[psutil.Process]:
    """The children of those who are there, and theirs."""
    found: set[psutil.Process] = set()
    for member in family:
        try:
            found |= set(member.children(recursive=True))
        except psutil.NoSuchProcess:
            continue
    return found


if __name__ == "__main__":
    reap(int(sys.argv[1]))
