"""Files and new folders that appear whole or not at all, whenever the process or the machine dies.

Each is written beside its place, under a name of its own, and takes its place by one rename. The rule on fsync: what is
written here is synced to the disk before the rename, and the rename after it. So a power cut leaves the old content or
the new one, never an empty file. Only a folder that replaces another takes two renames, and is absent between them.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ABANDONED_S = 3600.0  # far longer than any file takes to write


def write_whole(path: Path, text: str) -> None:
    """Write a text file as UTF-8; a lone surrogate, which UTF-8 lacks, is written as `\\udXXX`.

    Raises:
        OSError: it can't be written; the file that was there is as it was.
    """
    with replacing(path) as unfinished:
        unfinished.write_bytes(text.encode("utf-8", "backslashreplace"))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file to write, which becomes `path` when the block ends; if the block raises, it is removed.

    Two processes may do so at once: the file is that of the one that ends last. A file that is replaced keeps its mode.
    """
    _remove_abandoned(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield unfinished
        if path.exists():
            shutil.copymode(path, unfinished)
        sync(unfinished)
        unfinished.replace(path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def _remove_abandoned(path: Path) -> None:
    """Remove what writers of this file left that were killed an hour ago or earlier."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(OSError):  # another process removes it, too
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `path` when the block ends; if the block raises, nothing is left of it.

    A folder that was there before is replaced. One process at a time may do so.
    """
    stage = stage_of(path)
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    try:
        yield stage
        sync_tree(stage)
        put_in_place(stage, path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def stage_of(path: Path) -> Path:
    """The folder that is filled and then becomes `path`: the same name for all processes that fill it together."""
    return path.with_name(f".{path.name}.partial")


def is_unfinished(path: Path) -> bool:
    """Whether a file or folder has the name of one that is yet to be filled, or never was."""
    return path.name.startswith(".") and ".partial" in path.name


def put_in_place(stage: Path, path: Path) -> None:
    """Rename a folder; one that was there before is removed. It is not synced here."""
    if not path.exists():
        stage.rename(path)
        return
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    stage.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Sync a folder and all that is in it."""
    for parent, _, files in os.walk(folder):
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


def sync(path: Path) -> None:
    """Return once a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
