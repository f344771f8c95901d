"""Reads a provider's response: a text, a refusal or a fault, and the tokens that it billed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actors.json_bytes import decode
from actors.pool.provider_errors import ProviderError, clean, error_in_success, http_error, not_json
from rewards.transcript import CallStatus

_MOST_TOKENS = 10_000_000  # more than any model takes: a larger usage is nonsense


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a provider says it billed."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(slots=True)  # not frozen: a frozen one takes three times as long to make, and every attempt makes one
class Reply:
    """The result of one attempt: `refusal` and `fault` are reasons for people, both empty for a good text."""

    text: str = ""
    usage: Usage | None = None  # None if it was missing or nonsense
    refusal: str = ""
    fault: str = ""
    retriable: bool = False
    retry_after_s: float = 0.0  # the pause that the provider asked for
    timed_out: bool = False
    rejected: bool = False  # the provider says that it gets too many requests
    down: bool = False  # the provider can't be reached, or is out of order
    over_budget: bool = False  # nothing was sent, because a cap does not allow it
    may_be_billed: bool = False  # if there is no usage: the provider had begun an answer before the fault

    @property
    def good(self) -> bool:
        return not (self.fault or self.refusal)

    @property
    def status(self) -> CallStatus:
        """The status of a call whose last attempt has this result."""
        if self.over_budget:
            return CallStatus.OVER_BUDGET
        if self.refusal:
            return CallStatus.REFUSED
        if self.timed_out:
            return CallStatus.TIMEOUT
        return CallStatus.PROVIDER_ERROR if self.fault else CallStatus.OK


def read_reply(status: int, body: bytes) -> Reply:
    """Read a chat-completion response by its HTTP status and whole body. Never raises: a bad body is a fault.

    `provider_errors` says which errors are final.
    """
    content = _decode(body)
    fields = content if isinstance(content, dict) else {}
    usage = _usage(fields.get("usage"))
    success = 200 <= status < 300
    if success and fields.get("choices"):
        return _completion(fields, usage)
    if status >= 300:
        return _failed(http_error(status, fields.get("error"), body), usage if status >= 400 else None)
    if content is None:
        return _failed(not_json(status, body), None)
    if fields.get("error"):
        return _failed(error_in_success(fields["error"], body), usage)
    return _completion(fields, usage)


def _failed(error: ProviderError, usage: Usage | None) -> Reply:
    if error.refusal:
        return Reply(usage=usage, refusal=error.message)
    return Reply(
        usage=usage,
        fault=error.message,
        retriable=not error.final,
        rejected=error.rejected,
        down=error.down,
        may_be_billed=error.may_be_billed,
    )


def _completion(fields: dict[str, Any], usage: Usage | None) -> Reply:
    choices = fields.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return Reply(usage=usage, fault="the reply has no choices", may_be_billed=True)
    message = choice.get("message")
    if not isinstance(message, dict):
        return Reply(usage=usage, fault="the reply's first choice has no message", may_be_billed=True)
    refusal, content = message.get("refusal"), message.get("content")
    if isinstance(refusal, str) and refusal.strip():
        return Reply(usage=usage, refusal=f"the model refused: {clean(refusal)}")
    if choice.get("finish_reason") == "content_filter":
        return Reply(usage=usage, refusal="the provider's content filter stopped the reply")
    if not isinstance(content, str):
        fault = f"the reply's content is {type(content).__name__}, not a text"
        return Reply(usage=usage, fault=fault, may_be_billed=True)
    if content and usage is not None and usage.completion_tokens == 0:
        usage = None  # nonsense: a text without tokens
    # JSON may hold lone surrogates and zero bytes. Tokenizers and files can't hold the former, databases the latter.
    return Reply(text=content.encode("utf-8", "replace").decode().replace("\0", "\ufffd"), usage=usage)


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int:  # a bool is an int, but not a count
        return None
    if not (0 < prompt <= _MOST_TOKENS and 0 <= completion <= _MOST_TOKENS):
        return None
    return Usage(prompt, completion)


def _decode(body: bytes) -> object | None:
    try:
        return decode(body)
    except (ValueError, RecursionError):
        return None
