"""JSON as bytes: what providers are sent and send back, by the fast library where it can and Python's where not."""

from __future__ import annotations

import json
from typing import Any

import orjson


def encode(value: Any, *, sort_keys: bool = False) -> bytes:
    """Compact JSON in UTF-8.

    Raises:
        TypeError: something in it is not JSON.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except TypeError:  # lone surrogates, which are legal in JSON but in no UTF-8
        return json.dumps(value, sort_keys=sort_keys, separators=(",", ":")).encode("ascii")


def decode(data: bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError, RecursionError: it is no JSON, or nested too deeply.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:  # lone surrogates and NaN, which Python takes
        return json.loads(data)
