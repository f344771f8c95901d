"""The training set: questions drawn from several sources, seeded, with what is wrong or double in them."""

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
PAPER_COUNT = 7000  # of each: Router-R1, section 4.3
_SHOWN = 5  # examples of each kind of trouble

Trouble = Literal["duplicates", "overlap"]


@dataclass(frozen=True, slots=True)
class Part:
    """What was read from one source."""

    source: str
    questions: tuple[Question, ...]
    empty: tuple[str, ...] = ()  # where rows without an answer stand; they are no questions


@dataclass(slots=True)
class SourceReport:
    """One source: questions it has, what is double in them, and how many were taken. All are numbers of questions."""

    source: str
    rows: int
    empty_answers: int  # left out always: nothing they are answered with could be right
    duplicates: int = 0  # whose text came before in this source
    in_earlier_sources: int = 0  # whose text is in a source named before
    overlap: dict[str, int] = field(default_factory=dict)  # whose text is in a test set, by that
    left: int = 0  # to draw from, when what is to be dropped is
    asked: int = 0
    taken: int = 0


@dataclass(slots=True)
class Report:
    """What `data prepare` found, and what became of it."""

    seed: int
    dropped: list[str]
    sources: list[SourceReport]
    questions: int = 0  # in the training set
    duplicates_left: int = 0
    overlap_left: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)


def read_part(source: str) -> Part:
    """Read all questions of a source; rows without answers are set aside.

    Raises:
        QuestionError: the source can't be had, or a row is malformed in another way.
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
    """Draw `counts` questions from the parts without replacement, mix them, and report.

    What is dropped is dropped before the draw, so that the counts are met where a source has enough; one that has
    fewer gives all it has. Of duplicates the first stays, in the order of the parts.

    Raises:
        QuestionError: nothing is left of a part, or two parts give the same id to questions that were drawn.
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
    """Count the troubles of a part, with examples of each; the questions that are not to be dropped."""
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
    """A question as it is compared: its letters and digits alone, in one case, compatible forms alike.

    Without spaces too: NQ has questions twice, with "it's" and with "its". One without any letter or digit stays as
    it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum()) or folded.strip()


def _check_ids(questions: Sequence[Question]) -> None:
    twice = [identity for identity, count in Counter(question.id for question in questions).items() if count > 1]
    if twice:
        raise QuestionError(
            f"id {twice[0]!r} and {len(twice) - 1} more are given by two sources; number the rows of one: FILE:id=#"
        )
