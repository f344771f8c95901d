"""The contest of baselines beside a policy: over the same questions, by tables where there are any, else by asking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.pool.cards import ModelCard
from actors.pool.measure import most_usd
from actors.questions import Question
from benchmarks.baselines.contests import live_contest, served_contest, world_contest
from benchmarks.baselines.rows import Contest
from benchmarks.evaluation.reply_table import normalise_question
from benchmarks.questions.sources import load_sources
from cluster.config.settings import Config
from cluster.evaluation.ask_everyone import AskedTable, ask_table
from cluster.evaluation.evaluation_run import fingerprint_questions
from cluster.evaluation.folder import EvaluationFolder
from cluster.evaluation.options import EvaluateError, EvaluationOptions
from cluster.evaluation.spending import Spending


@dataclass(frozen=True, slots=True)
class PolicyContest:
    """A contest, if there is one, and what is to be said of it."""

    contest: Contest | None
    notes: tuple[str, ...] = ()


def policy_contest(
    config: Config,
    questions: Sequence[Question],
    cards: Sequence[ModelCard],
    options: EvaluationOptions,
    folder: EvaluationFolder,
    spending: Spending,
    say: Callable[[str], None],
    told: Callable[[int, int, float], None],
) -> PolicyContest:
    """Baselines over the questions that a policy is asked. Of a pool that is really paid for, only if asked for.

    Raises:
        EvaluateError: asking everyone may cost more than allowed.
        RunFolderError: the folder's baselines were made of other replies, or learnt from other questions.
        ReplyTableError, RepliesError, PoolError, LedgerError, QuestionError: the tables can't be had.
    """
    if config.candidates.serve == "world":
        contest = world_contest(questions)
        return PolicyContest(contest, (f"baselines: {contest.test.note}",))
    if config.candidates.serve == "recorded":
        found = kept_contest(config, questions, folder)
        return PolicyContest(found, (f"baselines: right is what the file of replies says is right; {found.test.note}",))
    if not options.ask_everyone:
        return PolicyContest(
            None, ("no baselines over tables: they need every candidate's reply to every question; say --ask-everyone",)
        )
    learnt = _to_learn_from(config, questions, options.fit_questions)
    everything = [*learnt, *questions]
    most = most_usd(cards, everything)
    say(
        f"--ask-everyone: {len(questions)} questions and {len(learnt)} to learn from, to {len(cards)} candidates: at "
        f"most {most:.4f} USD"
    )
    if most > options.max_usd and not options.yes:
        raise EvaluateError(
            f"--ask-everyone may cost {most:.4f} USD, more than --max-usd {options.max_usd:g}; say --yes, raise "
            "--max-usd, or lower --limit or --fit-questions"
        )
    folder.keep_to({"learnt_from": fingerprint_questions(learnt)})
    concurrency = options.concurrency or config.candidates.pool.max_in_flight
    train, test = asyncio.run(_ask(spending, learnt, questions, cards, concurrency, told))
    notes = [f"baselines: {test.table.note}"]
    if failed := (*train.failed, *test.failed):
        notes.append(
            f"baselines: {len(failed)} of {len(everything)} questions are left out, for a candidate failed at them, "
            f"such as {failed[0][0].id!r}: {failed[0][1]}"
        )
    return PolicyContest(live_contest(train.table, test.table), tuple(notes))


def kept_contest(config: Config, questions: Sequence[Question], folder: EvaluationFolder) -> Contest:
    """The contest by the recipe's recorded replies, to which the folder keeps.

    Raises:
        RunFolderError: the folder's baselines were made of other replies.
        ReplyTableError, RepliesError: as of `served_contest`.
    """
    assert config.candidates.replies is not None  # the configuration refuses it
    found = served_contest(config.candidates.replies, questions)
    folder.keep_to({"replies": found.test.digest, "learnt_from": found.train.digest})
    return found


async def _ask(
    spending: Spending,
    learnt: Sequence[Question],
    questions: Sequence[Question],
    cards: Sequence[ModelCard],
    concurrency: int,
    told: Callable[[int, int, float], None],
) -> tuple[AskedTable, AskedTable]:
    caller = spending.hire(cards)
    done, total = 0, (len(learnt) + len(questions)) * len(cards)

    def tell() -> None:
        nonlocal done
        done += 1
        told(done, total, spending.add_up())

    try:
        await caller.check()
        train, test = [
            await ask_table(caller, asked, cards, purpose=purpose, concurrency=concurrency, told=tell)
            for purpose, asked in (("fit", learnt), ("test", questions))
        ]
        return train, test
    finally:
        await caller.close()


def _to_learn_from(config: Config, questions: Sequence[Question], count: int) -> list[Question]:
    """Training questions of the recipe that are not among those asked."""
    asked = {normalise_question(question.text) for question in questions}
    drawn = load_sources(config.data.train, limit=count + len(questions), two_hop_share=config.data.two_hop_share)
    left = [question for question in drawn if normalise_question(question.text) not in asked]
    if not left:
        raise EvaluateError(
            f"data.train={', '.join(config.data.train)} leaves no question for baselines to learn from; name another "
            "with --set data.train=SOURCE, or give --baselines none"
        )
    return left[:count]
