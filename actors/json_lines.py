"""JSON lines: files of one JSON value a line, read so that every fault names its file and line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def decoded_lines(path: Path, lines: Iterable[bytes], error: type[ValueError]) -> Iterator[tuple[str, str]]:
    """Lines of a UTF-8 file, each with where it stands; a byte order mark is no part of the text.

    Raises:
        ValueError: one is not UTF-8; it is an `error`.
    """
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            yield where, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as fault:
            raise error(f"{where}: not UTF-8 (byte {fault.start}); convert the file to UTF-8") from fault


def json_values(path: Path, error: type[ValueError]) -> Iterator[tuple[str, Any]]:
    """The values of a file, in order, each with where it stands; blank lines are passed over.

    Raises:
        ValueError: a line is not UTF-8, not JSON, nested too deeply or holds too long a number; it is an `error`.
    """
    with path.open("rb") as file:
        for where, line in decoded_lines(path, file, error):
            if not line.strip():
                continue
            try:
                value = json.loads(line.rstrip())  # so that a fault's column is one of this line
            except json.JSONDecodeError as fault:
                why = f"{fault.msg} at column {fault.colno}"
                raise error(f"{where}: not JSON ({why}); write one JSON object a line") from fault
            except ValueError as fault:  # the standard library's limit on digits
                raise error(f"{where}: a number has too many digits; shorten it, or write it as text") from fault
            except RecursionError as fault:
                raise error(f"{where}: nested too deeply to be read; write one JSON object a line") from fault
            yield where, value


def json_objects(path: Path, error: type[ValueError]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, as `json_values` reads them.

    Raises:
        ValueError: as there, or a line holds something else; it is an `error`.
    """
    for where, value in json_values(path, error):
        if not isinstance(value, dict):
            raise error(f"{where}: expected a JSON object, got {type(value).__name__}")
        yield where, value
