"""The OpenAI chat-completions format: requests read, replies, chunks and errors written."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

_NO_LIMIT = 1 << 30


class UnknownModel(KeyError):
    """The answerer has no such model."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a candidate says, the tokens it bills and the seconds it takes."""

    text: str
    completion_tokens: int
    prompt_tokens: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class CandidateRequest:
    """The fields of a request that a candidate server heeds; `query` is the last user message."""

    model: str
    query: str
    question_id: str | None = None
    max_tokens: int = _NO_LIMIT
    stream: bool = False
    include_usage: bool = False


def read_request(body: bytes) -> CandidateRequest:
    """Read a request's JSON body.

    Raises:
        ValueError: it is no JSON, or a field is missing or of the wrong type; the message names it.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the request's body is not JSON") from None
    if not isinstance(fields, dict):
        raise ValueError(f"the request must be a JSON object, got {type(fields).__name__}")
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise ValueError(f"field 'model' must be a non-empty string, got {model!r}")
    limit = fields.get("max_completion_tokens", fields.get("max_tokens"))
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"field 'max_tokens' must be a positive integer, got {limit!r}")
    metadata, options = fields.get("metadata"), fields.get("stream_options")
    question_id = metadata.get("question_id") if isinstance(metadata, dict) else None
    return CandidateRequest(
        model=model,
        query=_last_user_text(fields.get("messages")),
        question_id=question_id if isinstance(question_id, str) and question_id else None,
        max_tokens=limit or _NO_LIMIT,
        stream=fields.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def shorten(answer: Answer, max_tokens: int) -> Answer:
    """The answer cut to `max_tokens` completion tokens; its words are taken to be equally long in tokens."""
    if answer.completion_tokens <= max_tokens:
        return answer
    words = answer.text.split()
    kept = words[: max(1, len(words) * max_tokens // answer.completion_tokens)]
    return replace(answer, text=" ".join(kept), completion_tokens=max_tokens)


def write_reply(request: CandidateRequest, answer: Answer, fault: str = "") -> dict[str, Any]:
    """The body of a reply; `answer` is not yet shortened. A fault of the name given spoils it."""
    short = shorten(answer, request.max_tokens)
    finish = "length" if short is not answer else "stop"
    message: dict[str, Any] = {"role": "assistant", "content": short.text}
    if fault == "null_content":
        message["content"] = None
    if fault == "refusal":
        message["content"], finish = None, "content_filter"
    reply: dict[str, Any] = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": short.prompt_tokens,
            "completion_tokens": short.completion_tokens,
            "total_tokens": short.prompt_tokens + short.completion_tokens,
        },
    }
    if fault == "empty_choices":
        reply["choices"] = []
    if fault == "no_usage":
        del reply["usage"]
    if fault == "wrong_usage":
        reply["usage"] |= {"prompt_tokens": -1, "completion_tokens": -1}
    return reply


def write_chunks(request: CandidateRequest, reply: dict[str, Any]) -> Iterator[bytes]:
    """The reply as server-sent events: one chunk a word, then the finish reason, usage if asked for, `[DONE]`."""
    head = {key: reply[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}

    def event(choices: list[dict[str, Any]], **more: object) -> bytes:
        return f"data: {json.dumps(head | {'choices': choices} | more)}\n\n".encode()

    for choice in reply["choices"]:
        yield event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        for number, word in enumerate((choice["message"]["content"] or "").split(" ")):
            piece = word if number == 0 else f" {word}"
            yield event([{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
        yield event([{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}])
    if request.include_usage and "usage" in reply:
        yield event([], usage=reply["usage"])
    yield b"data: [DONE]\n\n"


def write_error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


def _last_user_text(messages: object) -> str:
    if not isinstance(messages, list) or not messages:
        raise ValueError("field 'messages' must be a non-empty list")
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return _text(message.get("content"))
    raise ValueError("field 'messages' holds no message of role 'user'")


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [None]
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a message's 'content' must be a string or a list of text parts")
    return "\n".join(str(text) for text in texts)
