"""Numbers that are not known: nan in Python, null in JSON, which has no nan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def as_json(value: Any) -> Any:
    """The value as JSON can hold it: numbers that are not finite become null, numpy's become Python's."""
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(inner) for inner in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Path):
        return str(value)
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


def from_json(value: Any) -> Any:
    """A value out of JSON, nan for null."""
    return math.nan if value is None else value
