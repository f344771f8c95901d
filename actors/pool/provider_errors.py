"""Provider errors: which of them are final, which may be tried again, and which are refusals of the question."""

from __future__ import annotations

from dataclasses import dataclass

_EXCERPT = 200  # characters of a provider's message that an error repeats
_REFUSALS = ("content_filter", "content_policy", "contentfilter", "policyviolation", "moderation", "safety")


@dataclass(frozen=True, slots=True)
class ProviderError:
    """What a provider's error means for the call."""

    message: str  # for people
    final: bool = True  # False: another attempt may succeed
    refusal: bool = False  # the provider does not want to answer this question
    rejected: bool = False  # the provider says that it gets too many requests
    down: bool = False  # the provider is out of order
    may_be_billed: bool = False  # the provider had begun an answer before the error


def http_error(status: int, error: object, body: bytes) -> ProviderError:
    """The meaning of an HTTP status of 300 or more: 429 and 5xx may be tried again, every other one is final.

    `error` is the field of that name in the body, None if there is none.
    """
    complaint = _complaint(error, body)
    if status == 429 or status >= 500:
        return ProviderError(
            f"HTTP {status}: {complaint}", final=False, rejected=status in (429, 503), down=status >= 500
        )
    if status < 400:
        return ProviderError(f"HTTP {status}: redirects are not followed; set the card's base_url to the final address")
    if status == 451 or _is_refusal(error):
        return ProviderError(f"HTTP {status}: {complaint}", refusal=True)
    return ProviderError(_client_fault(status, complaint))


def error_in_success(error: object, body: bytes) -> ProviderError:
    """The meaning of an error in the body of a successful status; its code decides as an HTTP status would."""
    complaint = _complaint(error, body)
    if _is_refusal(error):
        return ProviderError(complaint, refusal=True)
    code = str(error.get("code")) if isinstance(error, dict) else ""
    server = len(code) == 3 and code.startswith("5")
    message = f"an error in a reply of status 200: {complaint}"
    return ProviderError(message, final=not (server or code == "429"), rejected=code in ("429", "503"), down=server)


def not_json(status: int, body: bytes) -> ProviderError:
    """The meaning of a body that is not JSON: a web page is final, anything else was probably cut off on the way."""
    message = f"HTTP {status} with a body that is not JSON: {_excerpt(body)}"
    if body.lstrip().startswith(b"<"):
        return ProviderError(f"{message}; a web page answers there: check the card's base_url")
    return ProviderError(message, final=False, may_be_billed=True)


def clean(message: str) -> str:
    """A provider's message on one line, printable and short."""
    text = "".join(c if c.isprintable() else " " for c in message)
    text = " ".join(text.split())
    return text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…"


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


def _complaint(error: object, body: bytes) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return clean(message) if isinstance(message, str) and message.strip() else _excerpt(body)


def _excerpt(body: bytes) -> str:
    return repr(clean(body[: 4 * _EXCERPT].decode("utf-8", "replace"))) if body.strip() else "an empty body"
