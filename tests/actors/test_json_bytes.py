"""JSON as bytes: compact UTF-8, for everything that Python's own library accepts."""

from __future__ import annotations

import json
import math

import pytest

from actors.json_bytes import decode, encode


def test_compact_and_sorted_where_asked() -> None:
    assert encode({"b": 1, "a": "é"}) == '{"b":1,"a":"é"}'.encode()
    assert encode({"b": 1, "a": [0.5, None]}, sort_keys=True) == b'{"a":[0.5,null],"b":1}'


@pytest.mark.parametrize("value", ["lone \ud800", {"n": 2**70}, ["Zürich 東京 \0 🦊"]])
def test_what_the_fast_library_refuses_goes_the_slow_way(value: object) -> None:
    assert json.loads(encode(value)) == value == decode(encode(value))


def test_what_is_no_json() -> None:
    with pytest.raises(TypeError):
        encode({"x": object()})
    with pytest.raises(json.JSONDecodeError):
        decode(b"<html>")
    assert math.isnan(decode(b"NaN"))  # some providers write NaN
