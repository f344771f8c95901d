"""Questions with their accepted answers, read from JSON lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a dataset; an answer is right when it matches any of `answers`."""

    id: str
    dataset: str
    text: str
    answers: tuple[str, ...]


class QuestionError(ValueError):
    """A question file that can't be used; the message names file, line, fault and remedy."""


def parse_question(row: object, where: str) -> Question:
    """Read one decoded JSON row `{"id", "dataset", "question", "answers": […]}`.

    Raises:
        QuestionError: a field is missing, of the wrong type or blank, or holds a lone surrogate.
    """
    if not isinstance(row, dict):
        raise QuestionError(f"{where}: expected a JSON object, got {type(row).__name__}")
    for field in ("id", "question"):
        value = row.get(field)
        if not isinstance(value, str) or not value.strip():
            raise QuestionError(f"{where}: field {field!r} must be a non-empty string, got {value!r}")
    answers = row.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise QuestionError(f"{where}: field 'answers' must be a non-empty list of non-blank strings, got {answers!r}")
    question = Question(row["id"], str(row.get("dataset", "")), row["question"], tuple(answers))
    for text in (question.id, question.dataset, question.text, *question.answers):
        if not _is_unicode(text):
            raise QuestionError(f"{where}: {text!r} holds a lone surrogate, which no tokenizer takes; remove it")
    return question


def load_questions(path: Path, limit: int | None = None) -> list[Question]:
    """Read a JSONL question file, the first `limit` rows if given.

    Raises:
        QuestionError: the file is missing or empty, a line is malformed or not UTF-8 (it is named), an id
            comes twice.
    """
    if not path.is_file():
        raise QuestionError(f"{path}: no such question file; give a JSONL file with id, question and answers")
    questions: dict[str, Question] = {}
    with path.open("rb") as lines:  # decoded line by line, so that a fault has a line
        for number, line in enumerate(lines, 1):
            if limit is not None and len(questions) >= limit:
                break
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise QuestionError(f"{where}: not UTF-8 (byte {error.start}); convert the file to UTF-8") from error
            except json.JSONDecodeError as error:
                raise QuestionError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
            question = parse_question(row, where)
            if question.id in questions:
                raise QuestionError(f"{where}: id {question.id!r} was given before; ids must be unique")
            questions[question.id] = question
    if not questions:
        raise QuestionError(f"{path}: holds no questions")
    return list(questions.values())


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
