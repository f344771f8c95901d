"""JSON lines: files with one JSON value per line; every error names its file and line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def decoded_lines(path: Path, lines: Iterable[bytes], error: type[ValueError]) -> Iterator[tuple[str, str]]:
    """Pairs of location (file and line) and text, for each line of a UTF-8 file; a byte order mark is dropped.

    Raises:
        ValueError: a line is not UTF-8; the exception is of the class `error`.
    """
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            yield where, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as fault:
            raise error(f"{where}: not UTF-8 (byte {fault.start}); convert the file to UTF-8") from fault


def json_values(path: Path, error: type[ValueError]) -> Iterator[tuple[str, Any]]:
    """Pairs of location (file and line) and value, in the file's order; blank lines are skipped.

    Raises:
        ValueError: a line is not UTF-8, not JSON, nested too deeply or holds too long a number; the exception is of
            the class `error`.
    """
    with path.open("rb") as file:
        for where, line in decoded_lines(path, file, error):
            if not line.strip():
                continue
            try:
                value = json.loads(line.rstrip())  # without the newline, an error's column is always in this line
            except json.JSONDecodeError as fault:
                why = f"{fault.msg} at column {fault.colno}"
                raise error(f"{where}: not JSON ({why}); write one JSON object a line") from fault
            except ValueError as fault:  # the standard library's limit on digits
                raise error(f"{where}: a number has too many digits; shorten it, or write it as text") from fault
            except RecursionError as fault:
                raise error(f"{where}: nested too deeply to be read; write one JSON object a line") from fault
            yield where, value


def json_objects(path: Path, error: type[ValueError]) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `json_values`, for a file that holds only JSON objects.

    Raises:
        ValueError: as for `json_values`, or a line holds a value that is not an object.
    """
    for where, value in json_values(path, error):
        if not isinstance(value, dict):
            raise error(f"{where}: expected a JSON object, got {type(value).__name__}")
        yield where, value
