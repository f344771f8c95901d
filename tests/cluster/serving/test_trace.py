"""The trace passes on the text that was written and read, however it was split, and holds the answer back."""

from __future__ import annotations

import pytest

from cluster.serving.live_trace import Trace
from rewards.grammar import TurnParser
from rewards.transcript import CallStatus, RouteCall

THOUGHT = "<think> a < b </think> <search> kobu : x </search>"
READ = "\n<information> it is y . </information>\n"
ANSWER = "<think> y </think> <answer> y </answer>"


def write(trace: Trace, pieces: list[str]) -> None:
    """Pass a turn to the trace as an episode does."""
    parser = TurnParser(on_span=trace.on_text)
    for piece in pieces:
        parser.feed(piece)
    parser.finish()


def play(pieces: list[str], *, answered: bool) -> tuple[str, list[str]]:
    written: list[str] = []
    trace = Trace(written.append)
    write(trace, pieces)
    trace.finish(answered=answered)
    assert all(written)
    return "".join(written), written


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 100])
def test_answer_is_kept_back_wherever_the_text_was_split(size: int) -> None:
    pieces = [ANSWER[i : i + size] for i in range(0, len(ANSWER), size)]
    assert play(pieces, answered=True)[0] == "<think> y </think> "


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize("text", ["<think> <answer> y </answer> <answ", "<think> y </think> <answer> y </ans"])
def test_all_is_passed_on_where_there_is_no_answer(text: str, size: int) -> None:
    assert play([text[i : i + size] for i in range(0, len(text), size)], answered=False)[0] == text


def test_an_answer_tag_within_a_thought_begins_no_answer() -> None:
    text = "<think> write <answer> then </think> <answer> y </answer>"
    assert play([text], answered=True)[0] == "<think> write <answer> then </think> "


def test_text_is_passed_on_as_it_comes() -> None:
    pieces = ["<think> a", " b", " </think>"]
    assert play(pieces, answered=False)[1] == ["<think>", " a", " b", " ", "</think>"]


def test_order_of_text_call_and_reply() -> None:
    seen: list[str] = []
    trace = Trace(seen.append, lambda call: seen.append(call.query))
    call = RouteCall("kobu", "card", "x", CallStatus.OK, "it is y .")
    # An answer block that is not closed before the replies come is not an answer.
    begun = THOUGHT + "<answer> no <information>"
    write(trace, [begun])
    trace.on_call(call)
    trace.on_read(READ)
    write(trace, [ANSWER])
    trace.finish(answered=True)
    assert "".join(seen) == begun + "x" + READ + "<think> y </think> "
