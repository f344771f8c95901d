"""Recorded replies: found by id, else by the nearest question; and the cards of the recorded models."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import pytest

from benchmarks.world.recorded import (
    NOTHING_RECORDED,
    RecordedAnswerer,
    RepliesError,
    count_tokens,
    recorded_cards,
)
from benchmarks.world.server import UnknownModel

QUESTIONS = {
    "q1": "who wrote the play hamlet",
    "q2": "what is the capital of france",
    "q3": "who wrote the novel dracula",
    "q4": "what is the longest river of africa",
}


def write(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "replies.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def replies(tmp_path: Path) -> Path:
    """Two models; only ChatGPT-4 replied to q3, and it is right on all but q4."""
    rows: list[dict[str, object]] = []
    for model in ("ChatGPT-4", "BingChat"):
        for key, text in QUESTIONS.items():
            if model == "ChatGPT-4" or key != "q3":
                row = {"id": key, "question": text, "model": model, "response": f"{model} on {key}."}
                rows.append(row | {"dataset": "nq", "correct": model == "ChatGPT-4" and key != "q4"})
    return write(tmp_path, rows)


def test_by_id(replies: Path) -> None:
    answerer = RecordedAnswerer(replies)
    assert answerer.models == ("ChatGPT-4", "BingChat")
    assert answerer.answer("ChatGPT-4", "unrelated words", "q2").text == "ChatGPT-4 on q2."
    assert answerer.answer(" bingchat", "what is the capital of france", "q1").text == "BingChat on q1."


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ("Who wrote Hamlet?", "q1"),
        ("France's capital", "q2"),
        ("dracula", "q3"),
        ("in Africa, which RIVER is the longest?", "q4"),
    ],
)
def test_by_the_nearest_text(replies: Path, query: str, key: str) -> None:
    answerer = RecordedAnswerer(replies)
    assert answerer.answer("ChatGPT-4", query, None).text == f"ChatGPT-4 on {key}."
    assert answerer.answer("ChatGPT-4", query, "unknown id").text == f"ChatGPT-4 on {key}."


def test_only_questions_that_the_model_replied_to(replies: Path) -> None:
    answerer = RecordedAnswerer(replies)
    assert answerer.answer("BingChat", "who wrote the novel dracula", "q3").text == "BingChat on q1."
    assert answerer.answer("BingChat", "dracula", None).text == NOTHING_RECORDED
    assert answerer.answer("BingChat", "", None).text == NOTHING_RECORDED


def test_unknown_model(replies: Path) -> None:
    with pytest.raises(UnknownModel, match="GPT-9"):
        RecordedAnswerer(replies).answer("GPT-9", "x", None)


def test_tokens_and_latency(replies: Path) -> None:
    first, second = (RecordedAnswerer(replies).answer("BingChat", "capital of france", None) for _ in range(2))
    assert first == second
    assert (first.prompt_tokens, first.completion_tokens) == (4, 5)  # capita+l of france; Bing.. in two, on, q2, .
    assert count_tokens("") == 1
    by_id = RecordedAnswerer(replies).answer("BingChat", "other words", "q2")
    assert by_id.latency_s == first.latency_s > 0


def test_latency_is_spread_around_the_cards_median(tmp_path: Path) -> None:
    row = {"model": "ChatGPT-4", "response": "yes", "correct": True}
    path = write(tmp_path, [row | {"id": f"q{n}", "question": f"question number {n}"} for n in range(2000)])
    answerer = RecordedAnswerer(path)
    started = time.process_time()
    texts = [answerer.answer("ChatGPT-4", f"which question has number {n}", None) for n in range(200)]
    assert (time.process_time() - started) / 200 < 0.005
    assert len(texts) == 200
    latencies = sorted(answerer.answer("ChatGPT-4", "x", f"q{n}").latency_s for n in range(2000))
    assert statistics.median(latencies) == pytest.approx(2.0, rel=0.15)
    assert latencies[1980] == pytest.approx(20.0, rel=0.4)


def test_cards_carry_measured_accuracy(replies: Path) -> None:
    cards = {card.name: card for card in recorded_cards(replies, "http://127.0.0.1:7/v1")}
    assert set(cards) == {"ChatGPT-4", "BingChat"}
    assert cards["ChatGPT-4"].domains == {"nq": 0.75}
    assert cards["BingChat"].domains == {"nq": 0.0}
    assert {card.base_url for card in cards.values()} == {"http://127.0.0.1:7/v1"}


def test_a_model_without_a_card(tmp_path: Path) -> None:
    row = {"id": "q", "question": "x", "model": "Nobody", "response": "y", "correct": True}
    with pytest.raises(RepliesError, match=r"no card for Nobody; add one to recorded_cards\.yaml"):
        recorded_cards(write(tmp_path, [row]))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no replies"),
        ("\n{", "line 2: not JSON"),
        ("[]", "line 1: expected a JSON object, got list"),
        ('{"id": 3}', "line 1: field 'id' must be a str, got 3"),
        ('{"id": "a", "question": "b", "model": "c", "response": null}', "field 'response' must be a str, got None"),
        ('{"id": "a", "question": "b", "model": "c", "response": "d", "correct": 1}', "field 'correct' must be a bool"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text(text)
    with pytest.raises(RepliesError) as caught:
        RecordedAnswerer(path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RepliesError, match="no such file"):
        RecordedAnswerer(tmp_path / "none.jsonl")
