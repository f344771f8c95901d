"""Files of a run: their errors, the lock of a folder, and files that get a line as each item is finished."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from actors.errors import ExplainedError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Writers in other languages and other processes report a full disk only in the text of an error.
_DISK_FULL_WORDS = ("no space left", "disk quota", "file too large", "file write failed")


class RunFolderError(ExplainedError, RuntimeError):
    """A run folder or checkpoint that can't be written or used; the message names path, fault and remedy."""


@contextmanager
def writing(path: Path, what: str) -> Iterator[None]:
    """Turn a failure to write into one error that names the path and the remedy."""
    try:
        yield
    except RunFolderError:
        raise
    except Exception as error:
        text = str(error).lower()
        code = error.errno if isinstance(error, OSError) else None
        if code in _DISK_FULL or any(words in text for words in _DISK_FULL_WORDS):
            raise RunFolderError(
                f"{path}: the disk is full, {what} was not written; free space or set run.folder to another disk"
            ) from error
        if isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError)):
            raise RunFolderError(
                f"{path}: {what} can't be written ({error}); make it writable, or set run.folder"
            ) from error
        raise


def remove(path: Path) -> bool:
    """Remove a file or a folder; return whether it is gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return not path.exists()


def hold_lock(file: Path, taken: str) -> IO[str]:
    """The lock on a file. It is held until it is closed or the process ends, even by a crash.

    Raises:
        RunFolderError: another process holds the lock; the message is `taken`.
        OSError: the file can't be made.
    """
    lock = file.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise RunFolderError(taken) from None
    return lock


def mended_lines(path: Path) -> list[bytes]:
    """The lines of a file, not parsed; none if there is no file. A last line without its newline is mended.

    If it is the beginning of an object, left by a crash, it is cut off; if it is complete, it gets its newline. Any
    other text was not written by this program: it stays, and the caller refuses the file.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    tail = content[len(whole) :]
    if tail.strip():
        if _is_json(tail):
            with path.open("ab") as file:
                file.write(b"\n")
        elif tail.startswith(b"{"):
            os.truncate(path, len(whole))
            content = whole
    return [line for line in content.split(b"\n") if line.strip()]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def append_line(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
