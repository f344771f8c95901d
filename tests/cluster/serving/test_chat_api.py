"""Chat-completion requests: which options are read, and which are refused, with status and parameter."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.serving.chat_api import MODEL, ApiError, parse_chat_request

USER = [{"role": "user", "content": "who ?"}]


def parse(**values: Any) -> Any:
    return parse_chat_request(json.dumps({"model": MODEL, "messages": USER} | values).encode())


def test_plain_request_is_greedy_and_repeatable() -> None:
    chat = parse()
    assert (chat.ask.question, chat.ask.sampling.temperature, chat.ask.seed) == ("who ?", 0.0, 0)
    assert not chat.stream
    assert chat.ask.max_tokens is None


def test_options_are_taken() -> None:
    chat = parse(
        temperature=0.7, top_p=0.9, seed=-3, max_tokens=9, max_completion_tokens=5, stream=True,
        stream_options={"include_usage": True}, user="u", n=1, tools=[], response_format={"type": "text"},
    )  # fmt: skip
    assert chat.ask.sampling.temperature == 0.7
    assert chat.ask.sampling.top_p == 0.9
    assert chat.ask.seed == (-3) % 2**31
    assert chat.ask.max_tokens == 5
    assert chat.stream
    assert chat.include_usage


def test_sampling_without_a_seed_differs_each_time() -> None:
    assert len({parse(temperature=1.0).ask.seed for _ in range(8)}) > 1


def test_question_is_the_last_user_message() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        *USER,
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": [{"type": "text", "text": "what"}, {"type": "text", "text": "now ? \ud800"}]},
    ]
    assert parse(messages=messages).ask.question == "what\nnow ? ?"


@pytest.mark.parametrize(
    ("values", "status", "param"),
    [
        ({"model": "gpt-4o"}, 404, "model"),
        ({"model": 3}, 400, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role"),
        ({"n": 2}, 400, "n"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"stop": "x"}, 400, "stop"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"stream": "yes"}, 400, "stream"),
        ({"nonsense": 1}, 400, "nonsense"),
    ],
)
def test_refusals_name_the_parameter(values: dict[str, Any], status: int, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**values)
    assert caught.value.status == status
    error = caught.value.body()["error"]
    assert error["param"] == param
    assert param.split(".")[0] in error["message"] or status == 404 or param == "messages"
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_bodies_that_are_no_request(body: bytes) -> None:
    with pytest.raises(ApiError, match="body") as caught:
        parse_chat_request(body)
    assert caught.value.status == 400
