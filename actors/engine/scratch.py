"""The scratch folder of an engine: its processes put temporary files there, and it is removed with the engine."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "router-r1-engine-"
_LOCK = "owner"  # the owner keeps this file locked, which shows that it lives, even to another container
_YOUNG_S = 60.0  # a younger folder may not be locked yet


class Scratch:
    """A new scratch folder. Making it removes the folders of owners that were killed together with their engines."""

    def __init__(self) -> None:
        for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            _remove_if_left(folder)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove the folder and its contents."""
        shutil.rmtree(self.path, ignore_errors=True)  # the engine's processes may still be ending
        os.close(self._lock)


def remove_own_scratch() -> None:
    """Remove this process's TMPDIR if it is a scratch folder; never any other folder."""
    folder = Path(os.environ.get("TMPDIR", "/"))
    if folder.name.startswith(PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:
        return  # another user's, or removed meanwhile
    try:
        if time.time() - os.fstat(lock).st_mtime > _YOUNG_S:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return  # its owner lives
    finally:
        os.close(lock)
