"""JSON lines: good files are read, and every fault gets its message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.json_lines import json_objects, json_values

pytestmark = pytest.mark.thorough

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class FileError(ValueError):
    """The error class that the reader's caller names."""


@given(values=st.lists(VALUES), gap=st.integers(0, 2))
def test_values_come_back_each_with_its_line(
    values: list[object], gap: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lines") / "values.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" * (1 + gap) for value in values), encoding="utf-8")
    expected = [(f"{path}, line {1 + place * (1 + gap)}", value) for place, value in enumerate(values)]
    assert list(json_values(path, FileError)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \n', r"f\.jsonl, line 2: not JSON \(Expecting value at column 6\); write one"),
        (b'{}\n\n{"a": "\xe9"}\n', r"f\.jsonl, line 3: not UTF-8 \(byte 7\); convert"),
        (b'{"a": ' + b"1" * 5000 + b"}", r"f\.jsonl, line 1: a number has too many digits; shorten"),
        (b"[" * 100_000, r"f\.jsonl, line 1: nested too deeply"),
        (b"{}\n[]\n", r"f\.jsonl, line 2: expected a JSON object, got list"),
    ],
)
def test_a_fault_is_the_callers_error_and_names_the_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message):
        list(json_objects(path, FileError))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert list(json_objects(path, FileError)) == [(f"{path}, line 1", {"a": 1})]
