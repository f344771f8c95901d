"""Question sources: the embedded world's questions, the seven QA sets by name, and files, as one string each; and how
many facts a source's questions chain."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

from actors.question_files import FORMATS, read_rows
from actors.questions import Columns, Question, QuestionError, QuestionRow, take_questions
from benchmarks.questions.flashrag import SETS, flashrag_rows, split_of
from benchmarks.world.facts import World

WORLD_QUESTIONS = 4000  # of a `world:` source, where no limit is given
SOURCES = f"world:train, world:heldout, a set or SET/SPLIT of {', '.join(SETS)}, or a file ({FORMATS})"

_MAPPING = re.compile(r"^(?P<rest>.*):(?P<field>[a-z]+)=(?P<column>[^:=]*)$", re.DOTALL)
_FIELDS = tuple(field.name for field in fields(Columns))

# Natural Questions and TriviaQA ask for one fact, PopQA for the object of one triple. HotpotQA was written over two
# paragraphs, and Bamboogle composes two facts. Most of 2WikiMultihopQA chains or compares two; its bridge-comparisons
# do both, over four, and are told apart by a type that questions here don't carry, so that they count as two.
_BY_SET = {"nq": 1, "triviaqa": 1, "popqa": 1, "hotpotqa": 2, "2wikimultihopqa": 2, "bamboogle": 2}

# MuSiQue's own ids begin with the number: 2hop__, 3hop1__, 4hop2__; ids of a collection may stand before it.
_IN_ID = re.compile(r"(?:^|[^0-9a-z])([2-4])hop\d*__")
_IN_WORLD = re.compile(r"world-(\d)hop")  # the embedded world's data sets are named so


def load_source(source: str, *, limit: int | None, two_hop_share: float) -> list[Question]:
    """Questions of one source, the first `limit` of them if given.

    A source is `world:train`, `world:heldout`, `SET` or `SET/SPLIT` of the seven QA sets (without a split: test,
    else dev; `flashrag:NAME/SPLIT` names any set of that collection), or a file. A file's columns may be named
    behind it, `FILE:id=COLUMN:question=COLUMN:answers=COLUMN:dataset=COLUMN`, `id=#` to number its rows, and
    `name=SET` for the data set of rows that state none (the file's name, if left out).

    Raises:
        QuestionError: the source is unknown, missing or malformed, or holds an id twice.
    """
    if source in ("world:train", "world:heldout"):
        split = "train" if source == "world:train" else "heldout"
        drawn = World().questions(split, 0, two_hop_share)  # type: ignore[arg-type]
        return [question for question, _ in itertools.islice(drawn, limit or WORLD_QUESTIONS)]
    return take_questions(source_rows(source, limit), limit)


def load_sources(
    sources: Sequence[str], *, two_hop_share: float, limit: int | None = None, total: int | None = None
) -> list[Question]:
    """Questions of several sources, taken in turn: `limit` of each at most, `total` in all.

    Raises:
        QuestionError: a source is unknown, missing or malformed.
    """
    if total == 0:
        return []
    each = min((n for n in (limit, total) if n is not None), default=None)
    parts = [load_source(source, limit=each, two_hop_share=two_hop_share) for source in sources]
    mixed = [question for row in itertools.zip_longest(*parts) for question in row if question is not None]
    return mixed[:total]


def source_rows(source: str, limit: int | None = None) -> Iterator[QuestionRow]:
    """Rows of a set or a file as they stand, not judged. A limit is a hint that no more will be taken.

    Raises:
        QuestionError: the source is unknown, missing or malformed.
    """
    if source.startswith("world:"):
        raise QuestionError(
            f"question source {source!r}: of the world there are world:train and world:heldout, drawn and not read"
        )
    if is_named(source):
        name, slash, split = source.removeprefix("flashrag:").partition("/")
        return flashrag_rows(name, split_of(name, split if slash else None), limit)
    path, columns = file_source(source)
    return read_rows(path, columns)


def is_named(source: str) -> bool:
    """Whether a source is the world's or a set of the collection, and no file."""
    return source.startswith(("world:", "flashrag:")) or source.partition("/")[0] in SETS


def file_source(source: str) -> tuple[Path, Columns]:
    """The file and the columns that `FILE:field=COLUMN:…` means.

    Raises:
        QuestionError: a field is unknown or its column empty, or the source means nothing else and is no file.
    """
    given: dict[str, str] = {}
    rest = source
    while not Path(rest).is_file() and (found := _MAPPING.match(rest)):
        rest, field, column = found["rest"], found["field"], found["column"]
        if field not in _FIELDS or not column:
            raise QuestionError(
                f"question source {source!r}: '{field}={column}' names no column; behind a file stand "
                + ", ".join(f"{name}=COLUMN" for name in _FIELDS[:-1])
                + ", or name=SET"
            )
        given[field] = column
    path = Path(rest)
    if not path.is_file() and not path.suffix:
        raise QuestionError(f"question source {source!r}: unknown; give {SOURCES}")
    return path, replace(Columns(name=path.stem), **given)


def hop_count(question: Question) -> int | None:
    """Facts to be chained for an answer; None where nothing states it, as in MuSiQue under ids not its own."""
    if found := _IN_WORLD.fullmatch(question.dataset):
        return int(found[1])
    if question.dataset == "musique" and (found := _IN_ID.search(question.id)):
        return int(found[1])
    return _BY_SET.get(question.dataset)
