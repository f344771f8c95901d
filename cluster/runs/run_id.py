"""The run's id: what the ledger books its calls under, unlike that of any other run, of the same name or not."""

from __future__ import annotations

import secrets
from pathlib import Path

from actors.errors import ExplainedError
from actors.whole_files import write_whole

FILE_NAME = "run_id"  # in the run folder


class RunIdError(ExplainedError, RuntimeError):
    """A run's id can't be read or kept; the message names the file, what is wrong and the remedy."""


def keep_run_id(file: Path, name: str) -> str:
    """The id in `file`; where there is none, `name` with a random suffix, which is then written there.

    A run that goes on has the id that it began with, even from a folder of another name; another run never has it,
    in a ledger that several share neither. The file is written at once or not at all.

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
