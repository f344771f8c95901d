"""The scratch folder of an engine: where its processes leave their temporary files, gone with the engine."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "router-r1-engine-"
_LOCK = "owner"  # a file that the owner keeps locked, so that others see that it lives, in whichever container
_YOUNG_S = 60.0  # it may not be locked yet


class Scratch:
    """A new folder. One whose owner was killed together with its engine goes as the next is made on the machine."""

    def __init__(self) -> None:
        for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            _remove_if_left(folder)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove it, and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)  # the engine's processes may be ending just now
        os.close(self._lock)


def remove_own_scratch() -> None:
    """Remove the folder of this process's temporary files if it is a scratch folder, and no other whatever happens."""
    folder = Path(os.environ.get("TMPDIR", "/"))
    if folder.name.startswith(PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:
        return  # another user's, or gone meanwhile
    try:
        if time.time() - os.fstat(lock).st_mtime > _YOUNG_S:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return  # its owner lives
    finally:
        os.close(lock)
