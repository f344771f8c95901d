"""The ledger's entries: what is written of a call before it is sent, and what completes it afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.errors import ExplainedError
from actors.json_bytes import encode

OPEN = "open"  # status of an entry that was begun and not settled: its money is reserved
CANCELLED = "cancelled"  # status of an entry that was given up before its call ended
FINAL = ("ok", "refused")  # statuses of replies: never asked for again


class LedgerError(ExplainedError, RuntimeError):
    """The ledger can't be read or written; the message names where it is, what is wrong and the remedy."""


@dataclass(frozen=True, slots=True)
class CallPlace:
    """Where in a run a call is made. With an empty `episode` it is no place: the call is outside any episode."""

    step: int
    episode: str
    turn: int
    index: int


@dataclass(slots=True)  # not frozen, nor is Settled: that takes three times as long to make, and every call makes one
class CallEntry:
    """A call that is about to be sent."""

    id: str  # unique in the ledger
    place: CallPlace
    model: str  # name of the card
    endpoint: str  # host; no key, no credentials
    request_hash: str
    request: str  # messages and sampling, JSON text; no key
    reserved_usd: float  # the most that it can cost
    started_at: float  # seconds of the wall clock since 1970


@dataclass(slots=True)
class Settled:
    """What a call came to."""

    status: str  # a CallStatus value, or `CANCELLED`
    reply: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    estimated: bool = False  # tokens and cost were estimated, for the provider reported no usage
    latency_s: float = 0.0
    attempts: int = 0
    error: str = ""
    hedged: bool = False  # a second request was sent beside a slow first


def request_hash(
    model_id: str, revision: str, messages: Sequence[Mapping[str, Any]], sampling: Mapping[str, Any]
) -> str:
    """SHA-256, in hex, of what decides a reply: model, revision, messages and sampling as canonical JSON.

    Two calls of one hash are the same question. It does not change between processes, nor with the order of
    keys.

    Raises:
        TypeError: something in it is not JSON.
    """
    return hashlib.sha256(encode([model_id, revision, messages, sampling], sort_keys=True)).hexdigest()
