"""The run's id: the ledger records calls under it. No other run has the same id, not even one of the same name."""

from __future__ import annotations

import secrets
from pathlib import Path

from actors.errors import ExplainedError
from actors.whole_files import write_whole

FILE_NAME = "run_id"  # in the run folder


class RunIdError(ExplainedError, RuntimeError):
    """A run's id can't be read or kept; the message names the file, what is wrong and the remedy."""


def keep_run_id(file: Path, name: str) -> str:
    """The id in `file`; if there is no file, `name` with a random suffix, which is then written there.

    A resumed run keeps its id, even if its folder was renamed; no other run has the same, so that several runs can
    share a ledger. The file is written completely or not at all.

    Raises:
        RunIdError: the file holds no id, or can't be read or written.
    """
    try:
        found = file.read_bytes().strip().decode("utf-8", "replace") if file.exists() else _make(file, name)
    except OSError as error:
        raise RunIdError(f"{file}: the run's id can't be kept there ({error}); make it writable") from error
    if not found or not found.isprintable():
        raise RunIdError(f"{file}: expected the run's id in one line, got {found[:80]!r}; restore it from a backup")
    return found


def _make(file: Path, name: str) -> str:
    made = f"{name}-{secrets.token_hex(4)}"
    write_whole(file, made + "\n")
    return made
