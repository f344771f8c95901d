"""JSON as bytes, as exchanged with providers: by orjson where it can, otherwise by Python's `json`."""

from __future__ import annotations

import json
from typing import Any

import orjson


def encode(value: Any, *, sort_keys: bool = False) -> bytes:
    """Compact JSON in UTF-8.

    Raises:
        TypeError: `value` holds something that JSON can't express.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except TypeError:  # orjson refuses lone surrogates: JSON can escape them, but UTF-8 can't hold them
        return json.dumps(value, sort_keys=sort_keys, separators=(",", ":")).encode("ascii")


def decode(data: bytes) -> Any:
    """The value that JSON bytes hold.

    Raises:
        ValueError, RecursionError: `data` is not JSON, or is nested too deeply.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:  # lone surrogates and NaN, which Python's `json` accepts
        return json.loads(data)
