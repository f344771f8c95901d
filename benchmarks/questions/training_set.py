"""The training set: questions drawn from several sources by a seed, and a report of their duplicates and gaps."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from actors.questions import Question, QuestionError, QuestionRow, take_questions
from benchmarks.questions.sources import source_rows

PAPER_SOURCES = ("nq/train", "hotpotqa/train")
PAPER_COUNT = 7000  # questions of each source: Router-R1, section 4.3
_SHOWN = 5  # examples of each kind of trouble

Trouble = Literal["duplicates", "overlap"]


@dataclass(frozen=True, slots=True)
class Part:
    """All questions of one source."""

    source: str
    questions: tuple[Question, ...]
    empty: tuple[str, ...] = ()  # places (file and line) of rows without answers; these are not questions


@dataclass(slots=True)
class SourceReport:
    """Numbers of questions of one source: all, duplicates, and drawn."""

    source: str
    rows: int
    empty_answers: int  # rows without answers; always left out, because no reply to them could be right
    duplicates: int = 0  # questions whose text occurs earlier in this source
    in_earlier_sources: int = 0  # questions whose text occurs in an earlier source
    overlap: dict[str, int] = field(default_factory=dict)  # by test set, questions whose text occurs in it
    left: int = 0  # questions to draw from, after dropping
    asked: int = 0  # questions requested
    taken: int = 0  # questions drawn


@dataclass(slots=True)
class Report:
    """The findings of `data prepare`, and the properties of the resulting set."""

    seed: int
    dropped: list[str]  # kinds of trouble that were dropped
    sources: list[SourceReport]
    questions: int = 0  # in the training set
    duplicates_left: int = 0
    overlap_left: dict[str, int] = field(default_factory=dict)  # by test set
    examples: dict[str, list[str]] = field(default_factory=dict)  # by kind of trouble


def read_part(source: str) -> Part:
    """Read all questions of a source; rows without answers are only noted.

    Raises:
        QuestionError: the source can't be read, or a row is malformed in another way.
    """
    empty: list[str] = []

    def answered() -> Iterator[QuestionRow]:
        for row in source_rows(source):
            if row.unanswered:
                empty.append(row.where)
            else:
                yield row

    questions = take_questions(answered())
    return Part(source, tuple(questions), tuple(empty))


def build(
    parts: Sequence[Part],
    counts: Sequence[int],
    *,
    seed: int,
    tests: Sequence[Part] = (),
    drop: Collection[Trouble] = (),
) -> tuple[list[Question], Report]:
    """Draw questions from the parts without replacement, shuffle them, and report.

    Args:
        counts: questions to draw from each part. A part that has fewer gives all.
        tests: test sets, which the questions are compared with.
        drop: kinds of trouble to drop before the draw, so that they don't reduce the counts. Of duplicates the first
            stays, in the order of the parts.

    Raises:
        QuestionError: no question of a part is left, or drawn questions of two parts have the same id.
    """
    tested = {test.source: {normal_text(question.text) for question in test.questions} for test in tests}
    report = Report(seed, sorted(drop), [])
    earlier: set[str] = set()
    chosen: list[Question] = []
    for position, (part, asked) in enumerate(zip(parts, counts, strict=True)):
        kept, found = _sift(part, earlier, tested, drop, report.examples)
        if not kept:
            raise QuestionError(f"{part.source}: no question is left to draw from; drop less, or leave the source out")
        drawn = random.Random(f"draw-{seed}-{position}").sample(kept, min(asked, len(kept)))
        found.asked, found.taken = asked, len(drawn)
        chosen += drawn
        report.sources.append(found)
        earlier |= {normal_text(question.text) for question in part.questions}
    _check_ids(chosen)
    random.Random(f"mix-{seed}").shuffle(chosen)
    texts = [normal_text(question.text) for question in chosen]
    report.questions = len(chosen)
    report.duplicates_left = len(texts) - len(set(texts))
    report.overlap_left = {source: sum(text in known for text in texts) for source, known in tested.items()}
    return chosen, report


def _sift(
    part: Part,
    earlier: Collection[str],
    tested: Mapping[str, Collection[str]],
    drop: Collection[Trouble],
    examples: dict[str, list[str]],
) -> tuple[list[Question], SourceReport]:
    """The questions that stay after dropping, and the counted troubles of a part; adds to `examples`."""
    found = SourceReport(part.source, len(part.questions) + len(part.empty), len(part.empty))
    found.overlap = dict.fromkeys(tested, 0)
    kept: list[Question] = []
    here: set[str] = set()

    def note(kind: str, example: str) -> None:
        shown = examples.setdefault(kind, [])
        shown += [example] if len(shown) < _SHOWN else []

    for where in part.empty:
        note("empty answers", where)
    for question in part.questions:
        text, shown = normal_text(question.text), f"{question.id}: {question.text}"
        if double := text in here:
            found.duplicates += 1
            note("duplicates", shown)
        if known := text in earlier:
            found.in_earlier_sources += 1
            note("in earlier sources", shown)
        if hits := [source for source, texts in tested.items() if text in texts]:
            note("overlap", shown)
        for source in hits:
            found.overlap[source] += 1
        if not ("duplicates" in drop and (double or known)) and not ("overlap" in drop and hits):
            kept.append(question)
        here.add(text)
    found.left = len(kept)
    return kept, found


def normal_text(text: str) -> str:
    """A question's text for comparison: only letters and digits, case-folded, in Unicode's form NFKC.

    Spaces and punctuation go because NQ has the same question with "it's" and with "its". A text without letters and
    digits keeps its characters.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum()) or folded.strip()


def _check_ids(questions: Sequence[Question]) -> None:
    twice = [identity for identity, count in Counter(question.id for question in questions).items() if count > 1]
    if twice:
        raise QuestionError(
            f"id {twice[0]!r} and {len(twice) - 1} more are given by two sources; number the rows of one: FILE:id=#"
        )
