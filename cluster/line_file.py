"""The line file: lines appended as things come to an end, so that whoever is killed loses the last one at most."""

from __future__ import annotations

import os
from pathlib import Path


def mended_lines(path: Path) -> list[bytes]:
    """The lines of a file, none where there is no file; a last one that a crash cut short is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    return [line for line in whole.split(b"\n") if line.strip()]


def append_line(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
