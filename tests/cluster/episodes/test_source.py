"""The question source: each question comes once an epoch, in an order that a cursor can continue."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.questions import Question
from cluster.episodes.source import QuestionSource

QUESTIONS = [Question(str(index), "d", "?", ("a",)) for index in range(10)]


@given(st.integers(), st.lists(st.integers(0, 7), max_size=12))
def test_every_question_comes_once_an_epoch_however_it_is_drawn(seed: int, counts: list[int]) -> None:
    source = QuestionSource(QUESTIONS, seed)
    drawn = [question.id for count in counts for question in source.draw(count)]
    for start in range(0, len(drawn) - 9, 10):
        assert len(set(drawn[start : start + 10])) == 10
    resumed = QuestionSource(QUESTIONS, seed, cursor=source.cursor)
    assert resumed.draw(15) == source.draw(15)


def test_epochs_and_seeds_differ_in_order() -> None:
    source = QuestionSource(QUESTIONS, 0)
    first, second = source.draw(10), source.draw(10)
    assert first != second
    assert QuestionSource(QUESTIONS, 1).draw(10) != first
