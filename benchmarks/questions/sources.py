"""Question sources, each named by one string: the embedded world's questions, the seven QA sets, and files.

Also the hop count: how many facts a question combines, as far as its data set states this.
"""

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

WORLD_QUESTIONS = 4000  # number of questions of a `world:` source without a limit
SOURCES = f"world:train, world:heldout, a set or SET/SPLIT of {', '.join(SETS)}, or a file ({FORMATS})"

_MAPPING = re.compile(r"^(?P<rest>.*):(?P<field>[a-z]+)=(?P<column>[^:=]*)$", re.DOTALL)
_FIELDS = tuple(field.name for field in fields(Columns))

# Natural Questions and TriviaQA ask for one fact, PopQA for the object of one triple. HotpotQA's questions were written
# about two paragraphs, and Bamboogle's combine two facts. Most questions of 2WikiMultihopQA chain or compare two facts.
# Its bridge-comparison questions combine four, but only a type field marks them, which `Question` does not have; so
# they count as two.
_BY_SET = {"nq": 1, "triviaqa": 1, "popqa": 1, "hotpotqa": 2, "2wikimultihopqa": 2, "bamboogle": 2}

# MuSiQue's own ids begin with the number: 2hop__, 3hop1__, 4hop2__. A collection may put a prefix before them.
_IN_ID = re.compile(r"(?:^|[^0-9a-z])([2-4])hop\d*__")
_IN_WORLD = re.compile(r"world-(\d)hop")  # names of the embedded world's data sets


def load_source(source: str, *, limit: int | None, two_hop_share: float) -> list[Question]:
    """The questions of one source; only the first `limit` if that is given.

    A source is one of these:
    - `world:train` or `world:heldout`;
    - `SET` or `SET/SPLIT` of the seven QA sets; without a split, test if the set has it, else dev;
    - `flashrag:NAME/SPLIT`, any set of that collection;
    - a file, optionally with its columns: `FILE:id=COLUMN:question=COLUMN:answers=COLUMN:dataset=COLUMN`. `id=#`
      numbers the rows. `name=SET` gives the data set of rows that state none; without it, that is the file's name.

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
    """Questions of several sources, one of each in turn: at most `limit` from each source and `total` in all.

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
    """Rows of a set or a file, unchecked. `limit` says how many the caller will take; there may be more.

    Raises:
        QuestionError: the source is unknown, missing or malformed.
    """
    if source.startswith("world:"):
        raise QuestionError(
            f"question source {source!r}: of the world there are world:train and world:heldout, whose questions are "
            "drawn; give a set or a file"
        )
    if is_named(source):
        name, slash, split = source.removeprefix("flashrag:").partition("/")
        return flashrag_rows(name, split_of(name, split if slash else None), limit)
    path, columns = file_source(source)
    return read_rows(path, columns)


def is_named(source: str) -> bool:
    """Whether a source is not a file: it names the world or a set of the collection."""
    return source.startswith(("world:", "flashrag:")) or source.partition("/")[0] in SETS


def file_source(source: str) -> tuple[Path, Columns]:
    """The file and the columns of a source `FILE:field=COLUMN:…`.

    Raises:
        QuestionError: a field is unknown or its column is empty; or there is no such file, and its name has no suffix.
    """
    given: dict[str, str] = {}
    rest = source
    while not Path(rest).is_file() and (found := _MAPPING.match(rest)):
        rest, field, column = found["rest"], found["field"], found["column"]
        if field not in _FIELDS or not column:
            raise QuestionError(
                f"question source {source!r}: '{field}={column}' names no column; after a file you can give "
                + ", ".join(f"{name}=COLUMN" for name in _FIELDS[:-1])
                + ", or name=SET"
            )
        given[field] = column
    path = Path(rest)
    if not path.is_file() and not path.suffix:
        raise QuestionError(f"question source {source!r}: unknown; give {SOURCES}")
    return path, replace(Columns(name=path.stem), **given)


def hop_count(question: Question) -> int | None:
    """The number of facts that an answer needs; None if nothing states it, such as MuSiQue with other ids."""
    if found := _IN_WORLD.fullmatch(question.dataset):
        return int(found[1])
    if question.dataset == "musique" and (found := _IN_ID.search(question.id)):
        return int(found[1])
    return _BY_SET.get(question.dataset)
