"""The ledger's entries: the record of a call, written before it is sent, and the outcome that completes it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.errors import ExplainedError
from actors.json_bytes import encode

OPEN = "open"  # status of an entry that is begun and not settled: its worst price is reserved
CANCELLED = "cancelled"  # status of an entry whose call was cancelled
FINAL = ("ok", "refused")  # statuses of calls with a reply, which are never repeated


class LedgerError(ExplainedError, RuntimeError):
    """The ledger can't be read or written; the message names where it is, what is wrong and the remedy."""


@dataclass(frozen=True, slots=True)
class CallPlace:
    """The place of a call in a run. An empty `episode` means no place: the call is outside any episode."""

    step: int
    episode: str
    turn: int
    index: int


@dataclass(slots=True)  # not frozen, nor is Settled: frozen ones take three times as long to make
class CallEntry:
    """A call that is about to be sent."""

    id: str  # unique in the ledger
    place: CallPlace
    model: str  # name of the card
    endpoint: str  # host; no key, no credentials
    request_hash: str
    request: str  # messages and sampling, JSON text; no key
    reserved_usd: float  # the most that the call can cost
    started_at: float  # seconds of the wall clock since 1970


@dataclass(slots=True)
class Settled:
    """The outcome of a call."""

    status: str  # a CallStatus value, or `CANCELLED`
    reply: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    estimated: bool = False  # tokens and cost were estimated, because the provider reported no usage
    latency_s: float = 0.0
    attempts: int = 0
    error: str = ""
    hedged: bool = False  # a second request was sent beside a slow first


def request_hash(
    model_id: str, revision: str, messages: Sequence[Mapping[str, Any]], sampling: Mapping[str, Any]
) -> str:
    """SHA-256, in hex, of everything that decides a reply: model, revision, messages and sampling as canonical JSON.

    Two calls with the same hash ask the same question. The hash is the same in all processes and for every order of
    keys.

    Raises:
        TypeError: an argument holds something that JSON can't express.
    """
    return hashlib.sha256(encode([model_id, revision, messages, sampling], sort_keys=True)).hexdigest()
