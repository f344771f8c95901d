"""Reply tables out of recorded replies of real models: judged by people, scored, or to be compared with answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.pool.cards import ModelCard, load_cards
from actors.questions import Question
from benchmarks.evaluation.measure import EXACT, JUDGED
from benchmarks.evaluation.reply_table import RecordedReply, ReplyTable, normalise_question
from benchmarks.world.recorded import RECORDED_CARDS, RepliesError, check_fields, count_tokens, read_rows
from rewards.outcome import outcomes

ASSUMED_REPLY_TOKENS = 60  # of a reply whose text and length were not recorded: a sentence or two


@dataclass(slots=True)
class _Row:
    """A question and the recorded replies to it."""

    question: Question
    replies: dict[str, RecordedReply] = field(default_factory=dict)


def recorded_table(path: Path, cards: Path = RECORDED_CARDS) -> ReplyTable:
    """Read a JSONL file of one row for each question and model.

    Needed are `question`, `model`, and how right the reply is: `correct` (true or false, a person's judgement), else
    `score` in [0, 1], else `response` with `answers` (exact match). Taken where they are there: `id`, `dataset`,
    `response`, `answers`, `prompt_tokens`, `completion_tokens`, `cost` (USD). Tokens that are missing are counted from
    the text (`world.recorded.count_tokens`), costs come from the cards' prices, and latencies are the cards' medians;
    the table's note says so. F1 is that of the whole reply, nan where a question has no `answers`.

    Raises:
        RepliesError: the file is missing or empty, a field is wrong, or a model replied to some questions only.
        CardError: the cards can't be used.
    """
    card_of = {card.name: card for card in load_cards(cards)}
    rows: dict[str, _Row] = {}
    assumed: set[str] = set()
    judged = False
    for where, fields in read_rows(path):
        judged = judged or "correct" in fields or "score" in fields
        check_fields(fields, where, question=str, model=str)
        card = card_of.get(fields["model"])
        if card is None:
            raise RepliesError(f"{where}: no card for {fields['model']}; add one to {cards.name}")
        row = rows.setdefault(_identity(fields), _Row(_question(fields, where)))
        if card.name in row.replies:
            raise RepliesError(
                f"{where}: {card.name} replies to question {row.question.id!r} twice; keep one of the two"
            )
        row.replies[card.name] = _reply(fields, card, where, assumed)
    if not rows:
        raise RepliesError(f"{path}: holds no replies")
    names = [name for name in card_of if any(name in row.replies for row in rows.values())]
    for row in rows.values():
        if missing := [name for name in names if name not in row.replies]:
            raise RepliesError(
                f"{path}: question {row.question.id!r} has no reply of {', '.join(missing)}; leave out the question or "
                "the model"
            )
    return ReplyTable(
        questions=tuple(row.question for row in rows.values()),
        cards=tuple(card_of[name] for name in names),
        replies=tuple(tuple(row.replies[name] for name in names) for row in rows.values()),
        note=f"assumed: {', '.join(sorted(assumed))}",
        measure=JUDGED if judged else EXACT,
    )


def _identity(fields: dict[str, Any]) -> str:
    return str(fields.get("id") or normalise_question(fields["question"]))


def _question(fields: dict[str, Any], where: str) -> Question:
    answers = fields.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise RepliesError(f"{where}: field 'answers' must be a list of strings, got {answers!r}")
    return Question(_identity(fields), str(fields.get("dataset", "")), fields["question"], tuple(answers))


def _reply(fields: dict[str, Any], card: ModelCard, where: str, assumed: set[str]) -> RecordedReply:
    """The reply of a row; what had to be assumed is added to `assumed`."""
    text = fields.get("response")
    if text is not None:
        check_fields(fields, where, response=str)
    prompt, completion = fields.get("prompt_tokens"), fields.get("completion_tokens")
    if prompt is None:
        prompt = count_tokens(fields["question"])
        assumed.add("prompts are the bare questions")
    if completion is None:
        completion = ASSUMED_REPLY_TOKENS if text is None else count_tokens(text)
        assumed.add(f"{ASSUMED_REPLY_TOKENS} tokens a reply" if text is None else "tokens counted from the text")
    for name, value in (("prompt_tokens", prompt), ("completion_tokens", completion)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise RepliesError(f"{where}: field {name!r} must be a whole number of at least 0, got {value!r}")
    cost = fields.get("cost")
    if cost is None:
        cost = card.cost_usd(prompt, completion)
        assumed.add(f"prices of {RECORDED_CARDS.name}")
    assumed.add("latencies")
    answers = fields.get("answers") or []
    return RecordedReply(
        text=text or "",
        correct=_correct(fields, where, assumed),
        f1=outcomes(text, answers)[1] if text is not None and answers else math.nan,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost_usd=_number(cost, "cost", math.inf, where),
        latency_s=card.latency_s,
    )


def _correct(fields: dict[str, Any], where: str, assumed: set[str]) -> float:
    if "correct" in fields:
        check_fields(fields, where, correct=bool)
        return float(fields["correct"])
    if "score" in fields:
        score = _number(fields["score"], "score", 1.0, where, least=-1.0)
        if score < 0:  # of a metric that is corrected for chance
            assumed.add("scores below 0 count as 0")
        return max(0.0, score)
    if fields.get("response") is None or not fields.get("answers"):
        raise RepliesError(f"{where}: give 'correct', 'score', or 'response' and 'answers'; none of them is there")
    return outcomes(fields["response"], fields["answers"])[0]


def _number(value: object, name: str, most: float, where: str, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise RepliesError(f"{where}: field {name!r} must be a number in [{least:g}, {most:g}], got {value!r}")
    return float(value)
