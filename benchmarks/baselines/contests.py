"""Contests of baselines that cost nothing: over recorded replies, or over the embedded world."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.questions import Question
from benchmarks.baselines.recorded_table import recorded_table
from benchmarks.baselines.rows import Contest
from benchmarks.baselines.world_tables import hop_table, play_by_hop
from benchmarks.evaluation.protocol import TWO_HOP_SHARE, Name, draw
from benchmarks.evaluation.reply_table import ReplyTable, ReplyTableError, normalise_question, split
from benchmarks.questions.sources import load_source
from benchmarks.world.experts import Expert

TRAIN_SHARE = 0.6  # of recorded questions: the baselines learn from these, and the others are asked
_WORLD_TRAIN = 1500  # questions of the world that baselines learn from


def recorded_contest(
    file: Path, datasets: Sequence[str], protocol: Name, *, limit: int | None = None, seed: int = 0
) -> Contest:
    """Recorded replies, split by question: to learn from, and to be tested on by the protocol.

    Raises:
        RepliesError, CardError: the file can't be used.
        ReplyTableError: there is no such data set, or too few questions.
    """
    table = recorded_table(file)
    there = list(dict.fromkeys(question.dataset for question in table.questions))
    if unknown := [name for name in datasets if name not in there]:
        named = ", ".join(repr(name) for name in there)
        raise ReplyTableError(f"--datasets {unknown[0]}: {file} holds no replies of it; there are {named}")
    if datasets:
        table = table.take([row for row, q in enumerate(table.questions) if q.dataset in datasets])
    train, test = split(table, TRAIN_SHARE, seed)
    by_set: dict[str, list[Question]] = defaultdict(list)
    for question in test.questions:
        by_set[question.dataset].append(question)
    asked = {question.id for questions in by_set.values() for question in draw(protocol, questions)[:limit]}
    test = test.take([row for row, question in enumerate(test.questions) if question.id in asked])
    return Contest(train, test, test.questions)


def world_training() -> list[Question]:
    """The world's questions that baselines learn from."""
    return load_source("world:train", limit=_WORLD_TRAIN, two_hop_share=TWO_HOP_SHARE)


def world_contest(questions: Sequence[Question], pool: Sequence[Expert] | None = None) -> Contest:
    """Questions of the world, answered hop by hop by a pool (the seen cast if left out): baselines learn from the
    world's training split.

    Raises:
        ReplyTableError: these are training questions.
    """
    learnt = world_training()
    return Contest(
        hop_table(learnt, pool),
        hop_table(questions, pool),
        tuple(questions),
        lambda router: play_by_hop(router, questions, pool),
    )


def served_contest(file: Path, questions: Sequence[Question]) -> Contest:
    """The questions that a policy is asked, where their replies are recorded; baselines learn from all others.

    Raises:
        RepliesError, CardError: the file can't be used.
        ReplyTableError: a question has no recorded replies, or none is left to learn from.
    """
    table = recorded_table(file)
    row_of = {question.id: row for row, question in enumerate(table.questions)}
    if missing := [question.id for question in questions if question.id not in row_of]:
        raise ReplyTableError(
            f"{len(missing)} of {len(questions)} questions have no recorded replies in {file}, such as {missing[0]!r}; "
            "evaluate those that have, or give --baselines none"
        )
    for question in questions:
        recorded = table.questions[row_of[question.id]].text
        if normalise_question(recorded) != normalise_question(question.text):
            raise ReplyTableError(
                f"question {question.id!r} is {question.text!r}, and {file} holds replies to {recorded!r} under that "
                "id; give one of them other ids, or give --baselines none"
            )
    asked = {normalise_question(question.text) for question in questions}
    others = [row for row, text in enumerate(table.queries) if normalise_question(text) not in asked]
    if not others:
        raise ReplyTableError(f"all questions of {file} are asked, and none is left to learn from; use --limit")
    return Contest(table.take(others), table.take([row_of[q.id] for q in questions]), tuple(questions))


def live_contest(train: ReplyTable, test: ReplyTable) -> Contest:
    """Replies that were asked for just now."""
    return Contest(train, test, test.questions)


def changed_contest(contest: Contest, names: Sequence[str], price_factors: Mapping[str, float]) -> Contest:
    """The contest among these candidates alone, some of them at other prices; not for the world's, which is played.

    Raises:
        ReplyTableError: one of them has no replies in the contest's tables.
    """
    train, test = (table.of_pool(names, price_factors) for table in (contest.train, contest.test))
    return Contest(train, test, contest.questions)
