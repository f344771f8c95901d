"""The line file: one JSON object is appended as each item is finished, so that a kill loses at most the last."""

from __future__ import annotations

import json
import os
from pathlib import Path


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
