"""Disk: files that are written completely or not at all, and the error if they can't be written."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def write_whole(path: Path, text: str) -> None:
    """Write a file completely or not at all, even if the machine fails meanwhile."""
    stage = path.with_name(f".{path.name}.partial")
    try:
        stage.write_bytes(text.encode("utf-8", "backslashreplace"))
        sync(stage)
        stage.replace(path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            stage.unlink(missing_ok=True)
        raise


def sync_tree(folder: Path) -> None:
    """Have the system write a folder with all its files to disk."""
    for parent, _, files in os.walk(folder):
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


def sync(path: Path) -> None:
    """Have the system write a file or a folder's list of names to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
