"""Reads a provider's response: a text, a refusal or a fault, and the tokens that it billed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actors.json_bytes import decode
from rewards.transcript import CallStatus

_MOST_TOKENS = 10_000_000  # more than any model takes: a larger usage is nonsense
_EXCERPT = 200  # characters of a provider's message that an error repeats
_REFUSALS = ("content_filter", "content_policy", "contentfilter", "policyviolation", "moderation", "safety")


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
    """Read a chat-completion response by its HTTP status and whole body. Never raises: a bad body is a fault."""
    content = _decode(body)
    fields = content if isinstance(content, dict) else {}
    usage = _usage(fields.get("usage"))
    if 200 <= status < 300 and fields.get("choices"):
        return _completion(fields, usage)
    complaint = _complaint(fields.get("error"), body)
    if status == 429 or status >= 500:
        return Reply(
            usage=usage,
            fault=f"HTTP {status}: {complaint}",
            retriable=True,
            rejected=status in (429, 503),
            down=status >= 500,
        )
    if 300 <= status < 400:
        return Reply(fault=f"HTTP {status}: redirects are not followed; set the card's base_url to the final address")
    if status >= 400:
        if status == 451 or _is_refusal(fields.get("error")):
            return Reply(usage=usage, refusal=f"HTTP {status}: {complaint}")
        return Reply(usage=usage, fault=_client_fault(status, complaint))
    if content is None:
        return _no_json(status, body)
    if fields.get("error"):
        return _error_body(fields["error"], complaint, usage)
    return _completion(fields, usage)


def _no_json(status: int, body: bytes) -> Reply:
    fault = f"HTTP {status} with a body that is not JSON: {_excerpt(body)}"
    if body.lstrip().startswith(b"<"):
        return Reply(fault=f"{fault}; a web page answers there: check the card's base_url")
    # Probably the transfer was cut off unnoticed, so it is retried like a broken connection.
    return Reply(fault=fault, retriable=True, may_be_billed=True)


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
        return Reply(usage=usage, refusal=f"the model refused: {_clean(refusal)}")
    if choice.get("finish_reason") == "content_filter":
        return Reply(usage=usage, refusal="the provider's content filter stopped the reply")
    if not isinstance(content, str):
        fault = f"the reply's content is {type(content).__name__}, not a text"
        return Reply(usage=usage, fault=fault, may_be_billed=True)
    if content and usage is not None and usage.completion_tokens == 0:
        usage = None  # nonsense: a text without tokens
    # JSON may hold lone surrogates and zero bytes. Tokenizers and files can't hold the former, databases the latter.
    return Reply(text=content.encode("utf-8", "replace").decode().replace("\0", "\ufffd"), usage=usage)


def _error_body(error: object, complaint: str, usage: Usage | None) -> Reply:
    if _is_refusal(error):
        return Reply(usage=usage, refusal=complaint)
    code = str(error.get("code")) if isinstance(error, dict) else ""
    retriable = code == "429" or (len(code) == 3 and code.startswith("5"))
    fault = f"an error in a reply of status 200: {complaint}"
    rejected = code in ("429", "503")
    return Reply(
        usage=usage, fault=fault, retriable=retriable, rejected=rejected, down=code.startswith("5") and retriable
    )


def _client_fault(status: int, complaint: str) -> str:
    if status in (401, 403):
        # Providers repeat a part of the key here, so their message is left out.
        return f"HTTP {status}: the provider refused the key; check the variable that the card's api_key_env names"
    if status == 404:
        return f"HTTP 404: {complaint}; check the card's model and base_url"
    return f"HTTP {status}: {complaint}"


def _is_refusal(error: object) -> bool:
    if not isinstance(error, dict):
        return False
    inner = error.get("innererror")
    codes = [error.get("code"), error.get("type"), inner.get("code") if isinstance(inner, dict) else None]
    return any(mark in str(code).casefold() for code in codes for mark in _REFUSALS)


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


def _complaint(error: object, body: bytes) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return _clean(message) if isinstance(message, str) and message.strip() else _excerpt(body)


def _excerpt(body: bytes) -> str:
    return repr(_clean(body[: 4 * _EXCERPT].decode("utf-8", "replace"))) if body.strip() else "an empty body"


def _clean(message: str) -> str:
    """A provider's message on one line, printable and short."""
    text = "".join(c if c.isprintable() else " " for c in message)
    text = " ".join(text.split())
    return text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…"
