"""Question files in every format: the same questions, or an error with file, line, column and remedy."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from actors.question_files import load_questions, read_rows
from actors.questions import Columns, QuestionError, QuestionRow

ROWS = [
    {"qid": "1", "query": "who, exactly?", "gold": ["me", "I"]},
    {"qid": "2", "query": 'a "quoted"\nquestion', "gold": ["[sic] no"]},
]
MAPPING = Columns(id="qid", question="query", answers="gold", name="mine")


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            for row in rows:
                writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def raw(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_questions(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"q.{ending}", ROWS)
    first, second = load_questions(path, columns=MAPPING)
    assert (first.id, first.dataset, first.text, first.answers) == ("1", "mine", "who, exactly?", ("me", "I"))
    assert (second.text, second.answers) == ('a "quoted"\nquestion', ("[sic] no",))
    assert load_questions(path, 1, MAPPING) == [first]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_missing_column_is_named_with_those_there(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"q.{ending}", ROWS)
    with pytest.raises(QuestionError) as error:
        load_questions(path, columns=Columns(id="qid", question="query"))
    assert "no column 'answers' for answers; its columns: qid, query, gold" in str(error.value)
    assert "FILE:answers=COLUMN" in str(error.value)
    with pytest.raises(QuestionError, match="id=# to number the rows"):
        load_questions(path, columns=Columns(question="query", answers="gold"))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_data_set_column_must_be_there_when_it_is_named(tmp_path: Path, ending: str) -> None:
    columns = Columns(id="qid", question="query", answers="gold", dataset="set")
    with pytest.raises(QuestionError, match="no column 'set' for dataset"):
        load_questions(write(tmp_path / f"q.{ending}", ROWS), columns=columns)


def test_rows_can_be_numbered_and_may_state_their_data_set(tmp_path: Path) -> None:
    rows = [{"query": "a", "gold": "x", "set": "nq"}, {"query": "b", "gold": "y", "set": ""}]
    columns = Columns(id="#", question="query", answers="gold", dataset="set", name="q")
    found = load_questions(write(tmp_path / "mine.csv", rows), columns=columns)
    assert [(q.id, q.dataset) for q in found] == [("mine-1", "nq"), ("mine-2", "q")]


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ("Paris", ("Paris",)),
        ('["Paris", "Lutetia"]', ("Paris", "Lutetia")),
        (' ["Paris"] ', ("Paris",)),
        ("[citation needed", ("[citation needed",)),
        (["Paris"], ("Paris",)),
        (("Paris",), ("Paris",)),
    ],
)
def test_answers_may_be_a_list_a_json_list_or_one_string(cell: object, answers: tuple[str, ...]) -> None:
    assert QuestionRow("here", {"id": 7, "question": "q", "answers": cell}).question().answers == answers


@pytest.mark.parametrize("cell", ["", "  ", None, [], "[]", ["", " "], '[""]'])
def test_rows_without_answers_are_told_apart_and_are_no_questions(cell: object) -> None:
    row = QuestionRow("q.csv, line 2", {"id": "1", "question": "q", "answers": cell})
    assert row.unanswered
    with pytest.raises(QuestionError, match=r"q\.csv, line 2: field 'answers' .* leave out questions without answers"):
        row.question()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("['Paris', 'Lutetia']", "looks like a list but is not JSON"),
        ("[1999]", "non-blank strings"),
        ([1999], "non-blank strings"),
        (1999, "non-blank strings"),
        ({"text": ["x"]}, "non-blank strings"),
        (["x", ""], "non-blank strings"),
    ],
)
def test_answers_of_another_kind_are_refused(cell: object, message: str) -> None:
    with pytest.raises(QuestionError, match=message):
        QuestionRow("here", {"id": "1", "question": "q", "answers": cell}).question()


@pytest.mark.parametrize("identity", [True, 1.5, None, ""])
def test_an_id_is_a_string_or_a_whole_number(identity: object) -> None:
    with pytest.raises(QuestionError, match="field 'id'"):
        QuestionRow("here", {"id": identity, "question": "q", "answers": "a"}).question()
    assert QuestionRow("here", {"id": 7, "question": "q", "answers": "a"}).question().id == "7"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,question,answers\n1,a,b\n2,a,b,c\n", "line 3: 4 cells, but the header names 3"),
        ("id,question,answers\n1,a\n", "line 2: 2 cells"),
        ('id,question,answers\n1,"a,b\n', "line 2: not CSV"),
        (b"id,question,answers\n1,a,b\n2,caf\xe9,b\n", r"line 3: not UTF-8 \(byte 5\)"),
        ("id,question,answers\n", "holds no questions"),
        ("", "no column 'id' for id; its columns: none"),
        ("id,question,answers\n1,a,b\n\n1,c,d\n", "line 4: id '1' was given before"),
    ],
)
def test_a_malformed_csv_file_is_named_by_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(QuestionError, match=message):
        load_questions(raw(tmp_path / "q.csv", text))


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = raw(tmp_path / "q.csv", "\ufeffid,question,answers\r\n1,a,b\r\n")
    assert load_questions(path)[0].answers == ("b",)


def test_what_is_no_parquet_is_refused_and_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match=r"q\.parquet: not a readable Parquet file"):
        load_questions(raw(tmp_path / "q.parquet", "id,question"))
    rows = [{"id": n, "question": "q", "answers": ["a"] if n != 1500 else []} for n in range(1, 1601)]
    path = write(tmp_path / "large.parquet", rows)
    with pytest.raises(QuestionError, match=r"large\.parquet, row 1500: field 'answers'"):
        load_questions(path)
    assert len(load_questions(path, limit=1200)) == 1200


def test_rows_come_one_by_one(tmp_path: Path) -> None:
    path = raw(tmp_path / "q.jsonl", '{"id": "1", "question": "q", "answers": ["a"]}\nnot JSON\n')
    rows = read_rows(path)
    assert next(rows).question().id == "1"
    with pytest.raises(QuestionError, match="line 2: not JSON"):
        next(rows)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_a_csv_file_holds_any_text(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, list[str]]]) -> None:
    # The csv module splits lines at line feeds, as the reader's source does.
    written = [{"id": str(n), "question": text, "answers": answers} for n, (text, answers) in enumerate(rows)]
    path = write(tmp_path_factory.getbasetemp() / "any.csv", written)
    assert [(q.text, list(q.answers)) for q in load_questions(path)] == rows
