"""Reply tables of recorded replies: each kind of file, the assumptions, and the errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from shared_data import DATA, needs_data

from benchmarks.baselines.recorded_table import ASSUMED_REPLY_TOKENS, recorded_table
from benchmarks.world.recorded import RepliesError, count_tokens

JUDGED = {"id": "q1", "dataset": "nq", "question": "who wrote hamlet", "response": "Shakespeare did.", "correct": True}
FULL = {"question": "who wrote hamlet", "answers": ["Shakespeare"], "response": "shakespeare", "prompt_tokens": 7}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "replies.jsonl"
    path.write_text("".join(json.dumps({"model": "ChatGPT-4"} | row) + "\n" for row in rows))
    return path


def test_a_persons_judgement_is_taken_and_the_price_assumed(tmp_path: Path) -> None:
    table = recorded_table(
        write(tmp_path, JUDGED, JUDGED | {"model": "DPR+FiD", "correct": False, "response": "Bacon"})
    )
    assert table.names == ("DPR+FiD", "ChatGPT-4")  # in the order of the cards
    assert table.correct.tolist() == [[0, 1]]
    reply = table.replies[0][1]
    assert reply.prompt_tokens == count_tokens("who wrote hamlet")
    assert reply.cost_usd == pytest.approx((reply.prompt_tokens * 30 + reply.completion_tokens * 60) / 1e6)
    assert math.isnan(reply.f1)
    assert "prices of recorded_cards.yaml" in table.note
    assert "tokens counted from the text" in table.note


def test_recorded_tokens_and_costs_are_taken_as_they_are(tmp_path: Path) -> None:
    table = recorded_table(write(tmp_path, FULL | {"completion_tokens": 5, "cost": 0.25, "score": 0.5}))
    reply = table.replies[0][0]
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cost_usd, reply.correct) == (7, 5, 0.25, 0.5)
    assert reply.f1 == 1.0
    assert table.note == "assumed: latencies"


def test_without_a_judgement_the_reply_is_compared_with_the_answers(tmp_path: Path) -> None:
    assert recorded_table(write(tmp_path, FULL)).correct.tolist() == [[1.0]]
    assert recorded_table(write(tmp_path, FULL | {"response": "bacon"})).correct.tolist() == [[0.0]]


def test_scores_alone_will_do(tmp_path: Path) -> None:
    table = recorded_table(write(tmp_path, {"question": "who wrote hamlet", "score": -0.03}))
    assert table.correct.tolist() == [[0.0]]
    assert table.replies[0][0].completion_tokens == ASSUMED_REPLY_TOKENS
    assert "scores below 0 count as 0" in table.note
    assert f"{ASSUMED_REPLY_TOKENS} tokens a reply" in table.note


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([JUDGED | {"model": "Nobody"}], "line 1: no card for Nobody"),
        ([JUDGED, JUDGED], "line 2: ChatGPT-4 replies to question 'q1' twice"),
        ([JUDGED | {"correct": 1}], "field 'correct' must be a bool"),
        ([JUDGED | {"response": 3}], "field 'response' must be a str"),
        ([FULL | {"score": 2}], r"field 'score' must be a number in \[-1, 1\], got 2"),
        ([FULL | {"cost": -1}], "field 'cost' must be a number"),
        ([FULL | {"completion_tokens": 1.5}], "field 'completion_tokens' must be a whole number"),
        ([FULL | {"answers": "Shakespeare"}], "field 'answers' must be a list of strings"),
        ([{"question": "x", "response": "y"}], "give 'correct', 'score', or 'response' and 'answers'"),
        ([{"question": "x", "answers": ["y"]}], "give 'correct', 'score', or 'response' and 'answers'"),
        ([JUDGED, JUDGED | {"id": "q2", "model": "BingChat"}], "question 'q1' has no reply of BingChat"),
        ([], "holds no replies"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RepliesError, match=message):
        recorded_table(write(tmp_path, *rows))


@needs_data
@pytest.mark.parametrize(
    ("name", "questions", "candidates", "right"),
    [
        ("replies_evouna", 1867, 5, {"ChatGPT-4": 0.842, "DPR+FiD": 0.751}),
        ("scores_llmrouter_nq", 500, 9, {"codegemma-7b": 0.192, "llama-3.3-nemotron-super-49b-v1": 0.472}),
        ("replies_routerarena", 809, 2, {"gemini-2.0-flash-001": 0.690, "claude-3-haiku-20240307": 0.523}),
    ],
)
def test_the_shared_recordings_are_read_whole(
    name: str, questions: int, candidates: int, right: dict[str, float]
) -> None:
    table = recorded_table(DATA / f"{name}.jsonl")
    assert table.correct.shape == (questions, candidates)
    shares = dict(zip(table.names, table.correct.mean(axis=0), strict=True))
    assert {model: shares[model] for model in right} == pytest.approx(right, abs=5e-4)
