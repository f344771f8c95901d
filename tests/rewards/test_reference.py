"""The published rules: compared with recorded outputs, and with a slow second implementation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings

from rewards.outcome import exact_match, token_f1
from rewards.presets import Judge
from rewards.reference import ReferenceReading, accepts_name
from rewards.settings import RewardSettings
from tests.rewards.soup import SOUP

ROWS = [json.loads(line) for line in Path(__file__).with_name("reward_examples.jsonl").open(encoding="utf-8")]
KINDS = ("think", "search", "information", "answer")


def of_kind(kind: str) -> list[Any]:
    return [pytest.param(row, id=row["id"]) for row in ROWS if row["kind"] == kind]


@pytest.mark.parametrize("row", of_kind("format"))
def test_format_and_route_count_are_as_recorded(row: dict[str, Any]) -> None:
    reading = ReferenceReading(row["response"])
    assert (-1.0 if reading.violations() else 0.0) == row["reference_format"]
    assert reading.routes == row["reference_route_count"]


@pytest.mark.parametrize("row", of_kind("outcome"))
def test_outcomes_are_as_recorded(row: dict[str, Any]) -> None:
    assert exact_match(row["prediction"], row["golds"]) == row["em"]
    assert token_f1(row["prediction"], row["golds"]) == pytest.approx(row["f1"], abs=1e-9)


@pytest.mark.parametrize("row", of_kind("total"))
def test_totals_are_as_recorded(row: dict[str, Any]) -> None:
    judge = Judge(RewardSettings(preset="reference", alpha=row["alpha"], metric=row["metric"]))
    for item, expected in zip(row["items"], row["expected"], strict=True):
        found = judge.judge_text(item["response"], item["golds"], item["raw_cost"])
        assert found.total == pytest.approx(expected["reward"], abs=1e-9)
        assert found.cost == pytest.approx(expected["cost_reward"], abs=1e-9)
        assert (found.format, found.answer) == (expected["format"], expected["answer"])
        assert found.outcome == pytest.approx(max(expected[row["metric"]], 0.0), abs=1e-9)
        assert sum(found.components.values()) == pytest.approx(found.total, abs=1e-12)


def scan(text: str, kinds: tuple[str, ...]) -> list[tuple[str, str]]:
    """The text's blocks, found character by character."""
    found, at = [], 0
    while at < len(text):
        kind = next((k for k in kinds if text.startswith(f"<{k}>", at)), None)
        close = text.find(f"</{kind}>", at + len(f"<{kind}>")) if kind else -1
        if kind is None or close < 0:
            at += 1
            continue
        found.append((kind, text[at + len(f"<{kind}>") : close].strip()))
        at = close + len(f"</{kind}>")
    return found


def name_is_known(name: str) -> bool:
    lowered = name.strip().lower()
    if re.search("qwen|palmyra|creative", lowered):
        return True
    if "llama" in lowered:
        return bool(re.search("70b|51b|49b|8b", lowered))
    return bool(re.search("mistral|mixtral|granite|gemma", lowered))


def route_holds(content: str, *, mind_name_in_query: bool) -> bool:
    pieces = content.split(":")
    if len(pieces) != 2:
        return False
    name, query = (piece.strip().lower() for piece in pieces)
    placeholder = any(word in content.lower() for word in ("llm-name", "your-query"))
    named_again = mind_name_in_query and name in query
    return bool(query) and not placeholder and not named_again and name_is_known(name)


def slow_format(text: str) -> float:
    blocks = scan(text, KINDS)
    tags = [f"<{kind}>" for kind in KINDS] + [f"</{kind}>" for kind in KINDS]
    kinds = [kind for kind, _ in blocks]
    holds = (
        bool(blocks)
        and all(text.count(f"<{kind}>") == text.count(f"</{kind}>") for kind in KINDS)
        and not any(kind == "think" and content in ("", "...") for kind, content in blocks)
        and not any(tag in content for tag in tags for _, content in blocks)
        and kinds.count("answer") == 1
        and "think" in kinds
        and kinds.count("search") == kinds.count("information")
        and text.strip().startswith("<think>")
        and text.strip().endswith("</answer>")
        and all(route_holds(content, mind_name_in_query=True) for kind, content in blocks if kind == "search")
    )
    return 0.0 if holds else -1.0


def slow_routes(text: str) -> int:
    count = 0
    for kind, content in scan(text, ("search", "answer")):
        if kind == "search":
            if not route_holds(content, mind_name_in_query=False):
                break
            count += 1
    return count


@settings(max_examples=300, deadline=None)
@given(SOUP)
@example("<think>a</think></search><search><answer>x</answer>")
@example("<answer></think><think> a </answer> <answer> b </answer>")
def test_any_text_is_read_as_the_rules_say(text: str) -> None:
    reading = ReferenceReading(text)
    assert (-1.0 if reading.violations() else 0.0) == slow_format(text)
    assert reading.routes == slow_routes(text)
    answers = scan(text, ("answer",))
    assert reading.answer == (answers[-1][1] if answers else None)


def test_names_are_known_by_their_parts() -> None:
    for name in ("qwen", "my-creative-llama", "llama-8b", "llama-3 70b", "mixtral", "granite", "gemma"):
        assert accepts_name(name)
    for name in ("", "llama", "llama-mistral", "gpt-4", "llama-13b"):
        assert not accepts_name(name)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "no_block"),
        ("<think>a</think><answer>x</answer></search>", "unbalanced_tags"),
        ("<think>...</think><answer>x</answer>", "empty_think"),
        ("<think><search></think><answer>x</answer>", "nested_tag"),
        ("<think>a</think><answer>x</answer><answer>y</answer>", "answer_count"),
        ("<answer>x</answer>", "no_think"),
        ("<think>a</think><search>qwen: q</search><answer>x</answer>", "unpaired_search"),
        ("\ufeff<think>a</think><answer>x</answer>", "think_not_first"),
        ("<think>a</think><answer>x</answer>.", "answer_not_last"),
        ("<think>a</think><search>qwen: 10:30</search><information/><answer>x</answer>", "bad_route"),
        ("<think>a</think><search>qwen: your-query</search><answer>x</answer>", "placeholder"),
        ("<think>a</think><search>qwen: who is Qwen</search><answer>x</answer>", "name_in_query"),
        ("<think>a</think><search>gpt: q</search><answer>x</answer>", "unknown_model"),
    ],
)
def test_a_broken_rule_is_named(text: str, rule: str) -> None:
    assert rule in ReferenceReading(text).violations()
