"""Question files: read, or refused with file, line and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.question_files import load_questions
from actors.questions import QuestionError

GOOD = {"id": "q1", "dataset": "nq", "question": "who?", "answers": ["me"]}


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_rows_are_read_in_order_and_limited(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", GOOD, "", GOOD | {"id": "q2"}, GOOD | {"id": "q3"})
    assert [q.id for q in load_questions(path, limit=2)] == ["q1", "q2"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "line 2: not JSON"),
        ([1], "expected a JSON object"),
        (GOOD | {"question": " "}, "'question' must be a non-empty string"),
        (GOOD | {"answers": []}, "'answers' must be a non-empty list"),
        (GOOD | {"answers": [3]}, "'answers'"),
        (GOOD | {"id": "q2", "answers": ["me", " "]}, "non-blank"),
        (GOOD | {"id": "q2", "question": "who \ud800?"}, "lone surrogate"),
        (GOOD | {"id": "q2", "answers": ["\udfff"]}, "lone surrogate"),
        (GOOD | {"id": "\ud800"}, "lone surrogate"),
        (GOOD, "was given before"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(QuestionError, match=r"q\.jsonl, line 2") as error:
        load_questions(write(tmp_path / "q.jsonl", GOOD, row))
    assert message in str(error.value)


def test_bytes_that_are_not_utf_8_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "q2", "question": "caf\xe9", "answers": ["x"]}\n')
    with pytest.raises(QuestionError, match=r"q\.jsonl, line 2: not UTF-8"):
        load_questions(path)
    assert len(load_questions(path, limit=1)) == 1


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match="no such question file"):
        load_questions(tmp_path / "none.jsonl")
    with pytest.raises(QuestionError, match="holds no questions"):
        load_questions(write(tmp_path / "empty.jsonl", ""))
