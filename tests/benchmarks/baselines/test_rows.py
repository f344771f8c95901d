"""Baseline rows: names and weights of cost lead to rows, and tables that nobody asks for are made of recordings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.questions import Question
from benchmarks.baselines.comparison import NAMES
from benchmarks.baselines.contests import recorded_contest, served_contest
from benchmarks.baselines.router import RouterError
from benchmarks.baselines.rows import UNTRAINED, chosen_names, make_rows, planned_rows
from benchmarks.evaluation.reply_table import ReplyTableError


@pytest.fixture
def replies(tmp_path: Path) -> Path:
    """40 questions of two sets, and two models: ChatGPT-4 is right on the first, BingChat on the second."""
    rows = [
        {"id": f"q{n}", "dataset": name, "question": f"what is number {n}", "model": model, "response": "x",
         "correct": (model == "ChatGPT-4") == (name == "nq")}
        for n in range(40) for name in ("nq" if n % 2 else "popqa",) for model in ("ChatGPT-4", "BingChat")
    ]  # fmt: skip
    path = tmp_path / "replies.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_names() -> None:
    assert chosen_names(["all"]) == (*UNTRAINED, *NAMES)
    assert chosen_names(["cot", "alone:x"]) == ("cot", "alone:x")
    assert chosen_names(["none"]) == ()
    assert chosen_names(["knn", "all", "knn"])[0] == "knn"
    for wrong in ("knnn", "none"):
        with pytest.raises(RouterError, match=f"baseline '{wrong}': not found"):
            chosen_names(["knn", wrong])


def test_what_does_not_know_of_lambda_is_one_row(replies: Path) -> None:
    contest = recorded_contest(replies, (), "full")
    rows = planned_rows(["alone", "cheapest_right", "best_utility"], [0.0, 0.5], contest.train)
    assert [row.name for row in rows] == [
        "alone:ChatGPT-4", "alone:BingChat", "cheapest_right", "best_utility", "best_utility, λ=0.5",
    ]  # fmt: skip
    made = {row.name: (items, why) for row, items, why in make_rows(contest, rows, 0)}
    assert list(made) == [row.name for row in rows]
    assert {item.em for item in made["cheapest_right"][0]} == {1.0}
    for items, why in made.values():
        assert [item.question for item in items] == [question.id for question in contest.questions]
        assert why == ""
    rows = planned_rows(["alone", "best_constant_training", "best_utility"], [0.5], contest.train)
    assert [row.name for row in rows[1:]] == ["alone:BingChat", "best_constant_training", "best_utility, λ=0.5"]
    with pytest.raises(RouterError, match="no λ to try"):
        planned_rows(["knn"], [], contest.train)


def test_a_row_that_the_table_does_not_allow_for_is_left_out_with_its_reason(replies: Path) -> None:
    contest = recorded_contest(replies, (), "full")
    [(_, items, why)] = make_rows(contest, planned_rows(["largest"], [0.0], contest.train), 0)
    assert items == []
    assert "tell no size" in why


def test_sets_of_recorded_replies(replies: Path) -> None:
    contest = recorded_contest(replies, ("nq",), "paper", limit=3)
    assert {question.dataset for question in contest.train.questions} == {"nq"}
    assert len(contest.questions) == 3
    assert not {q.id for q in contest.questions} & {q.id for q in contest.train.questions}
    with pytest.raises(
        ReplyTableError, match=r"--datasets musique: .* holds no replies of it; there are 'popqa', 'nq'"
    ):
        recorded_contest(replies, ("musique",), "paper")


def test_beside_a_policy_baselines_learn_from_what_it_is_not_asked(replies: Path) -> None:
    asked = [Question(f"q{n}", "nq", f"what is number {n}", ("x",)) for n in (7, 3)]
    contest = served_contest(replies, asked)
    assert [question.id for question in contest.test.questions] == ["q7", "q3"]
    assert len(contest.train) == 38
    with pytest.raises(ReplyTableError, match=r"1 of 3 questions have no recorded replies in .*, such as 'z'"):
        served_contest(replies, [*asked, Question("z", "nq", "?", ("x",))])
    with pytest.raises(ReplyTableError, match="holds replies to 'what is number 3' under that id"):
        served_contest(replies, [Question("q3", "nq", "what is number 4", ("x",))])
    everything = [Question(f"q{n}", "nq", f"what is number {n}", ("x",)) for n in range(40)]
    with pytest.raises(ReplyTableError, match="none is left to learn from"):
        served_contest(replies, everything)
