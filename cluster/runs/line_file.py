"""The line file: JSON objects appended as things come to an end, so that whoever is killed loses the last at most."""

from __future__ import annotations

import json
import os
from pathlib import Path


def mended_lines(path: Path) -> list[bytes]:
    """The lines of a file, none where there is no file; they are not yet parsed.

    What follows the last newline is cut off where a crash cut it short; a whole line that lacks its newline is given
    one. Whatever else is there is somebody else's: it is left alone, for the caller to refuse.
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
