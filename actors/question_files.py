"""Question files: JSON lines, CSV, TSV and Parquet, read row by row; the caller may name the columns."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.json_lines import decoded_lines, json_objects
from actors.questions import ROW_NUMBER, Columns, Question, QuestionError, QuestionRow, missing_column, take_questions

_ROWS_AT_ONCE = 1000  # rows of a Parquet file held in memory
DEFAULT_COLUMNS = Columns()
FORMATS = "JSON lines, .csv, .tsv or .parquet with id, question and answers"


def load_questions(path: Path, limit: int | None = None, columns: Columns = DEFAULT_COLUMNS) -> list[Question]:
    """Read the first `limit` questions of a file, or all if None; the rows after them are not read.

    Raises:
        QuestionError: the file is missing, empty or not of its format; a row is malformed or not UTF-8 (the message
            names the row); a column is missing; an id appears twice.
    """
    return take_questions(read_rows(path, columns), limit)


def read_rows(path: Path, columns: Columns = DEFAULT_COLUMNS) -> Iterator[QuestionRow]:
    """The rows of a file, unchanged and in order. The ending .csv, .tsv or .parquet tells the format, else JSON lines.

    Raises:
        QuestionError: as for `load_questions`, except that rows are not validated.
    """
    if not path.is_file():
        raise QuestionError(f"{path}: no such question file; give {FORMATS}")
    rows = {".csv": _csv_rows, ".tsv": _csv_rows, ".parquet": _parquet_rows}.get(path.suffix.lower(), _json_rows)
    number = 0
    for number, (where, values) in enumerate(rows(path, columns), 1):
        if columns.id == ROW_NUMBER:
            values = {**values, ROW_NUMBER: f"{path.stem}-{number}"}
        yield QuestionRow(where, values, columns)
    if not number:
        raise QuestionError(f"{path}: holds no questions")


Rows = Iterator[tuple[str, dict[str, Any]]]


def _json_rows(path: Path, columns: Columns) -> Rows:
    return json_objects(path, QuestionError)


def _csv_rows(path: Path, columns: Columns) -> Rows:
    with path.open("rb") as file:
        reader = csv.reader(
            (line for _, line in decoded_lines(path, file, QuestionError)),
            delimiter="\t" if path.suffix.lower() == ".tsv" else ",",
            strict=True,
        )
        try:
            header = next(reader, [])
            _check_columns(str(path), columns, header)
            for cells in reader:
                where = f"{path}, line {reader.line_num}"
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise QuestionError(
                        f"{where}: {len(cells)} cells, but the header names {len(header)}; quote cells that hold the "
                        "delimiter or a line break"
                    )
                yield where, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise QuestionError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _parquet_rows(path: Path, columns: Columns) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            present = file.schema_arrow.names
            _check_columns(str(path), columns, present)
            wanted = {columns.id, columns.question, columns.answers, columns.dataset}
            batches = file.iter_batches(_ROWS_AT_ONCE, columns=[name for name in present if name in wanted])
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
            for number, values in enumerate(rows, 1):
                yield f"{path}, row {number}", values
    except pa.ArrowException as error:
        raise QuestionError(f"{path}: not a readable Parquet file ({error})") from error


def _check_columns(where: str, columns: Columns, present: list[str]) -> None:
    for column in (columns.id, columns.question, columns.answers):
        if column not in present and column != ROW_NUMBER:
            raise missing_column(where, column, columns, present)
    if columns.dataset != DEFAULT_COLUMNS.dataset and columns.dataset not in present:
        raise missing_column(where, columns.dataset, columns, present)
