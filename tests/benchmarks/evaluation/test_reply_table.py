"""The reply table: checked when it is made, split without overlap, filled by candidates that are asked."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.pool.cards import ModelCard
from actors.questions import Question
from benchmarks.evaluation.reply_table import RecordedReply, ReplyTable, ReplyTableError, check_apart, split

CARDS = tuple(
    ModelCard(name=name, descriptor="x", base_url="http://127.0.0.1:9/v1", price_out_usd_per_mtok=1.0)
    for name in ("a", "b")
)
RIGHT = RecordedReply("yes", 1.0, 1.0, 3, 1, 0.25, 2.0)
WRONG = RecordedReply("no", 0.0, math.nan, 3, 1, 0.5, 1.0)


def table_of(texts: list[str], replies: tuple[RecordedReply, ...] = (RIGHT, WRONG)) -> ReplyTable:
    questions = tuple(Question(f"q{i}", "made", text, ("yes",)) for i, text in enumerate(texts))
    return ReplyTable(questions, CARDS, (replies,) * len(texts))


def test_numbers_lie_in_rows_of_questions_and_columns_of_candidates() -> None:
    table = table_of(["one", "two"])
    assert table.names == ("a", "b")
    assert table.correct.tolist() == [[1, 0], [1, 0]]
    assert table.cost_usd[1].tolist() == [0.25, 0.5]
    assert table.take([1]).queries == ["two"]
    assert table.take([1]).latency_s.tolist() == [[2.0, 1.0]]


def test_a_pool_of_its_candidates_may_be_smaller_and_dearer() -> None:
    table = table_of(["one", "two"])
    assert table.of_pool(["b", "a"], {"a": 3.0}).cost_usd.tolist() == [[0.5, 0.75]] * 2
    alone = table.of_pool(["b"], {"a": 3.0})
    assert (alone.names, alone.correct.tolist(), alone.queries) == (("b",), [[0.0], [0.0]], table.queries)
    with pytest.raises(ReplyTableError, match="candidate 'c' is not in the table; there are a, b"):
        table.of_pool(["c"], {})


def test_all_who_are_asked_are_paid_and_the_last_one_answers() -> None:
    outcome = table_of(["one"]).outcome(0, (1, 0))
    assert (outcome.em, outcome.f1, outcome.cost_usd, outcome.asked) == (1.0, 1.0, 0.75, ("b", "a"))
    assert table_of(["one"]).outcome(0, (0, 1)).em == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": 1.5}, r"question 'q0', candidate 'a': correct must lie in \[0, 1\], got 1.5"),
        ({"correct": math.nan}, "correct must lie in"),
        ({"cost_usd": -1.0}, "cost_usd must lie in"),
        ({"cost_usd": math.inf}, "cost_usd must lie in"),
    ],
)
def test_numbers_out_of_range_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ReplyTableError, match=message):
        table_of(["one"], (dataclasses.replace(RIGHT, **change), WRONG))  # type: ignore[arg-type]


def test_gaps_and_repetitions_are_refused() -> None:
    question = Question("q", "made", "one", ("yes",))
    with pytest.raises(ReplyTableError, match="one of each is needed"):
        ReplyTable((), CARDS, ())
    with pytest.raises(ReplyTableError, match="one reply of every candidate"):
        ReplyTable((question,), CARDS, ((RIGHT,),))
    with pytest.raises(ReplyTableError, match="question id 'q' comes twice"):
        ReplyTable((question, question), CARDS, ((RIGHT, WRONG),) * 2)
    with pytest.raises(ReplyTableError, match="candidate 'a' comes twice"):
        ReplyTable((question,), (CARDS[0], CARDS[0]), ((RIGHT, WRONG),))


WORDS = st.lists(st.sampled_from(["who", "Who?", "the who", "what", "WHAT", "when", "where", "why"]), min_size=1)


@given(st.lists(WORDS.map(" ".join), min_size=2, max_size=30), st.integers(0, 5))
def test_a_split_has_no_question_on_both_sides_and_loses_none(texts: list[str], seed: int) -> None:
    table = table_of(texts)
    try:
        train, test = split(table, 0.5, seed)
    except ReplyTableError:  # all are one question, but for case and articles
        return
    check_apart(train, test)
    assert sorted([*train.questions, *test.questions], key=lambda q: q.id) == sorted(
        table.questions, key=lambda q: q.id
    )


def test_a_split_depends_on_seed_and_texts_but_not_on_order() -> None:
    texts = [f"question {i}" for i in range(100)]
    train, test = split(table_of(texts), 0.6, 1)
    assert (len(train), len(test)) == (60, 40)
    assert set(split(table_of(texts[::-1]), 0.6, 1)[0].queries) == set(train.queries)
    assert set(split(table_of(texts), 0.6, 2)[0].queries) != set(train.queries)
    for share in (0.0, 1.0):
        with pytest.raises(ReplyTableError, match="leaves none"):
            split(table_of(texts), share, 1)


def test_overlap_is_refused_however_it_is_written() -> None:
    with pytest.raises(ReplyTableError, match=r"1 of 2 test questions are trained on, such as 'Who is the king\?'"):
        check_apart(table_of(["who is king"]), table_of(["Who is the king?", "who is queen"]))
    other = dataclasses.replace(table_of(["x"]), cards=(CARDS[1], CARDS[0]))
    with pytest.raises(ReplyTableError, match="take the same candidates"):
        check_apart(table_of(["y"]), other)
