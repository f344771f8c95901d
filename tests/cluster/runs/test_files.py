"""The line file: a last line that a crash left incomplete is cut off, and nothing else is ever lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.runs.files import append_line, mended_lines

OBJECTS = st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none(), min_size=1), min_size=1)


@given(objects=OBJECTS, data=st.data())
def test_a_crash_costs_the_last_line_at_most(
    objects: list[dict[str, object]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lines") / "file.jsonl"
    lines = [json.dumps(each, ensure_ascii=False) for each in objects]
    for line in lines:
        append_line(path, line)
    last = len(lines[-1].encode()) + 1
    cut = data.draw(st.integers(0, last))
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    kept = lines if cut <= 1 else lines[:-1]
    assert [line.decode() for line in mended_lines(path)] == kept
    append_line(path, "{}")
    assert [json.loads(line) for line in mended_lines(path)] == [*map(json.loads, kept), {}]


def test_what_is_somebody_else_s_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("first\nno newline here", encoding="utf-8")
    assert mended_lines(path) == [b"first", b"no newline here"]
    assert path.read_text(encoding="utf-8") == "first\nno newline here"
    assert mended_lines(tmp_path / "none") == []
