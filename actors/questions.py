"""Questions with their accepted answers; the only place that turns a row of data into a question."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from actors.errors import ExplainedError

ROW_NUMBER = "#"  # in place of the id column's name: ids are made from row numbers


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a dataset; an answer is right when it matches any of `answers`."""

    id: str
    dataset: str
    text: str
    answers: tuple[str, ...]


class QuestionError(ExplainedError, ValueError):
    """Questions can't be read or used; the message names the file, the line, the fault and the remedy."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The column of a source that holds each field; `name` is the dataset of rows that state none."""

    id: str = "id"
    question: str = "question"
    answers: str = "answers"
    dataset: str = "dataset"
    name: str = ""


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A row as read from its source, not yet validated."""

    where: str  # file and line, or dataset and row
    values: Mapping[str, object]
    columns: Columns = Columns()

    @property
    def unanswered(self) -> bool:
        """True if the row has no answer at all, so that no reply could be right.

        Raises:
            QuestionError: the column of answers is missing, or looks like a list but is not JSON.
        """
        answers = _listed(self._value(self.columns.answers), self.where, self.columns.answers)
        return all(isinstance(answer, str) and not answer.strip() for answer in answers)

    def question(self) -> Question:
        """The question of this row.

        Answers may be a list, a JSON list in a string, or one string; an id may be a whole number.

        Raises:
            QuestionError: a column is missing, a value is blank or of the wrong type, or a text holds a lone surrogate.
        """
        columns = self.columns
        identity, text = self._text(columns.id), self._text(columns.question)
        listed = _listed(self._value(columns.answers), self.where, columns.answers)
        answers = tuple(answer for answer in listed if isinstance(answer, str) and answer.strip())
        if not answers or len(answers) < len(listed):
            raise QuestionError(
                f"{self.where}: field {columns.answers!r} must be a non-empty list of non-blank strings, or one "
                f"string, got {self.values[columns.answers]!r}; leave out questions without answers"
            )
        question = Question(identity, str(self.values.get(columns.dataset) or columns.name), text, answers)
        for part in (question.id, question.dataset, question.text, *question.answers):
            if not _is_unicode(part):
                raise QuestionError(
                    f"{self.where}: {part!r} holds a lone surrogate, which no tokenizer takes; remove it"
                )
        return question

    def _value(self, column: str) -> object:
        if column not in self.values:
            raise missing_column(self.where, column, self.columns, list(self.values))
        return self.values[column]

    def _text(self, column: str) -> str:
        value = self._value(column)
        if column == self.columns.id and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise QuestionError(f"{self.where}: field {column!r} must be a non-empty string, got {value!r}")
        return value


def take_questions(rows: Iterable[QuestionRow], limit: int | None = None) -> list[Question]:
    """The questions of the first `limit` rows, or of all rows if None; later rows are not read.

    Raises:
        QuestionError: a row is not a valid question, or an id appears twice.
    """
    questions: dict[str, Question] = {}
    for row in itertools.islice(rows, limit):
        question = row.question()
        if question.id in questions:
            raise QuestionError(f"{row.where}: id {question.id!r} was given before; ids must be unique")
        questions[question.id] = question
    return list(questions.values())


def missing_column(where: str, column: str, columns: Columns, present: list[str]) -> QuestionError:
    """The error for a column that the source lacks; its message lists the columns that the source has."""
    field = next(field for field in ("id", "question", "answers", "dataset") if getattr(columns, field) == column)
    there = ", ".join(name for name in present if name != ROW_NUMBER) or "none"
    numbers = ", or id=# to number the rows" if field == "id" else ""
    return QuestionError(
        f"{where}: no column {column!r} for {field}; its columns: {there}. Name the right one, as "
        f"FILE:{field}=COLUMN{numbers}"
    )


def _listed(value: object, where: str, column: str) -> list[object]:
    """The answers as a list, in whichever form they are written."""
    if value is None:
        return []
    if not isinstance(value, str):
        return list(value) if isinstance(value, list | tuple) else [value]
    text = value.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return [value] if text else []
    try:
        listed = json.loads(text)
    except json.JSONDecodeError as error:  # more often a list in another notation than one answer in brackets
        raise QuestionError(
            f'{where}: field {column!r} looks like a list but is not JSON ({error.msg}): {text[:80]}; write ["…", "…"]'
        ) from error
    return list(listed)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
