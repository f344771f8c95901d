"""Small reply tables whose best routing is known."""

from __future__ import annotations

import random

import numpy as np

from actors.pool.cards import ModelCard
from actors.questions import Question
from benchmarks.evaluation.reply_table import RecordedReply, ReplyTable

NAMES = ("geographer", "musician", "polymath")
_COSTS = (0.001, 0.003, 0.002)
_PLACES = "river lake mountain island coast valley".split()
_TUNES = "song opera waltz melody chorus tune".split()


def card(name: str, descriptor: str = "a model", model: str = "") -> ModelCard:
    return ModelCard(
        name=name, descriptor=descriptor, base_url="http://127.0.0.1:9/v1", model=model, price_out_usd_per_mtok=1.0
    )


def table_of(
    correct: np.ndarray | list[list[float]], costs: np.ndarray | list[list[float]], names: tuple[str, ...] = ()
) -> ReplyTable:
    """A table of these numbers; its questions and replies say nothing."""
    right, paid = np.asarray(correct, dtype=float), np.asarray(costs, dtype=float)
    names = names or tuple(f"model-{column}" for column in range(right.shape[1]))
    return ReplyTable(
        tuple(Question(f"q{row}", "made", f"question number {row}", ("x",)) for row in range(len(right))),
        tuple(map(card, names)),
        tuple(
            tuple(RecordedReply("", r, r, 1, 1, c, 1.0) for r, c in zip(rights, costs_, strict=True))
            for rights, costs_ in zip(right, paid, strict=True)
        ),
    )


def topics_table(rows: int, seed: int, noise: float = 0.1) -> ReplyTable:
    """The geographer is right on places, the musician on tunes, each but for the noise; the polymath on 70 % of both.
    The musician is dearest, the geographer cheapest. Who is wrong says "perhaps"."""
    rng = random.Random(f"topics-{seed}")
    questions, replies = [], []
    for row in range(rows):
        place = rng.random() < 0.5
        word = rng.choice(_PLACES if place else _TUNES)
        questions.append(Question(f"{seed}-{row}", "topics", f"which {word} is number {seed} {row}", ("yes",)))
        chances = (1 - noise if place else noise, noise if place else 1 - noise, 0.7)
        rights = [float(rng.random() < chance) for chance in chances]
        replies.append(
            tuple(
                RecordedReply("it is so" if right else "perhaps it is", right, right, 5, 3, cost, 1.0)
                for right, cost in zip(rights, _COSTS, strict=True)
            )
        )
    return ReplyTable(tuple(questions), tuple(map(card, NAMES)), tuple(replies))
