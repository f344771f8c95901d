"""Asking everyone: the reply table of a live pool, each candidate asked each question as it stands, for baselines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.pool.caller import CandidateCaller
from actors.pool.calls import CallRequest
from actors.pool.cards import ModelCard
from actors.pool.measure import holds_answer
from actors.questions import Question
from actors.together import run_together
from benchmarks.evaluation.measure import HOLDS
from benchmarks.evaluation.reply_table import RecordedReply, ReplyTable
from rewards.outcome import token_f1
from rewards.transcript import CallStatus, RouteCall

NOTE = (
    "candidates answer in sentences, so a reply to a whole question counts as right where it holds an accepted answer"
)


@dataclass(frozen=True, slots=True)
class AskedTable:
    """The replies of everyone to the questions that all replied to, and those that someone failed at."""

    table: ReplyTable
    failed: tuple[tuple[Question, str], ...]  # and why


async def ask_table(
    caller: CandidateCaller,
    questions: Sequence[Question],
    cards: Sequence[ModelCard],
    *,
    purpose: str,
    concurrency: int,
    told: Callable[[], None],
) -> AskedTable:
    """Ask every candidate every question. `purpose` and the question's number are a call's place in the ledger, so
    that one that was answered is not paid for again.

    Raises:
        ReplyTableError: there is no question that everyone replied to.
        PoolError, LedgerError: nobody can be asked, or calls can't be recorded.
    """
    slots = asyncio.Semaphore(concurrency)

    async def ask(number: int, question: Question, card: ModelCard) -> RouteCall:
        async with slots:
            episode = f"everyone-{purpose}/{card.name}"
            call = await caller.ask(
                CallRequest(
                    card.name,
                    card.name,
                    question.text,
                    question.id,
                    max_tokens=card.max_output_tokens,
                    episode=episode,
                    turn=number,
                )
            )
        told()
        return call

    calls = await run_together(
        ask(number, question, card) for number, question in enumerate(questions) for card in cards
    )
    rows = [calls[start : start + len(cards)] for start in range(0, len(calls), len(cards))]
    whole, failed = [], []
    for question, row in zip(questions, rows, strict=True):
        lost = [call for call in row if call.status not in (CallStatus.OK, CallStatus.REFUSED)]
        if lost:
            failed.append((question, f"{lost[0].model} ended {lost[0].status}: {lost[0].error}"))
        else:
            whole.append((question, tuple(_reply(question, call) for call in row)))
    table = ReplyTable(tuple(q for q, _ in whole), tuple(cards), tuple(replies for _, replies in whole), NOTE, HOLDS)
    return AskedTable(table, tuple(failed))


def _reply(question: Question, call: RouteCall) -> RecordedReply:
    return RecordedReply(
        text=call.reply,
        correct=float(holds_answer(call.reply, question.answers)),
        f1=token_f1(call.reply, question.answers),
        prompt_tokens=call.prompt_tokens,
        completion_tokens=call.completion_tokens,
        cost_usd=call.cost_usd,
        latency_s=call.latency_s,
        refused=call.status is CallStatus.REFUSED,
    )
