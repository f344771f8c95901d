"""The ledger's rows: calls and their outcomes as the tables hold them, and the operations that write them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from actors.ledger.entry import FINAL, OPEN, CallEntry, CallPlace, LedgerError, Settled
from actors.ledger.schema import MICRO, NANO


@dataclass(frozen=True, slots=True)
class Begin:
    """A row to be written before its call is sent."""

    id: str
    claim: str | None
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settle:
    """The outcome that completes a row."""

    id: str
    frees_claim: bool  # the call failed: its place may ask again
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The removal of the row of a call that was cancelled before it was sent."""

    id: str


@dataclass(frozen=True, slots=True)
class Count:
    """Look-ups to add to the run's counts."""

    hits: int
    misses: int


Operation = Begin | Settle | Withdraw | Count


def begin_of(call: CallEntry, run: str) -> Begin:
    """The row of a call of a run.

    Raises:
        LedgerError: the reserved amount is not an amount of money.
    """
    place = call.place
    claim = claim_of(place, call.request_hash) if place.episode else None
    row = {
        "id": call.id,
        "claim": claim,
        "run": run,
        "step": place.step,
        "episode": place.episode,
        "turn": place.turn,
        "call_index": place.index,
        "model": call.model,
        "endpoint": call.endpoint,
        "request_hash": call.request_hash,
        "started_us": round(call.started_at * MICRO),
        "reserved_nano": _nano(call.reserved_usd, "reserved_usd"),
        "status": OPEN,
        "request": _storable(call.request),
    }
    return Begin(call.id, claim, row)


def settle_of(entry_id: str, settled: Settled) -> Settle:
    """The outcome that completes the row of a call.

    Raises:
        LedgerError: the latency is not a time, or the cost not an amount of money.
    """
    if not 0 <= settled.latency_s < math.inf:
        raise LedgerError(f"latency_s={settled.latency_s} of a call is not a time; give seconds")
    row = {
        "id": entry_id,
        "status": str(settled.status),
        "reply": _storable(settled.reply),
        "prompt_tokens": settled.prompt_tokens,
        "completion_tokens": settled.completion_tokens,
        "cost_nano": _nano(settled.cost_usd, "cost_usd"),
        "estimated": settled.estimated,
        "hedged": settled.hedged,
        "latency_s": settled.latency_s,
        "attempts": settled.attempts,
        "error": _storable(settled.error),
        "settled_us": round(time.time() * MICRO),
    }
    return Settle(entry_id, settled.status not in FINAL, row)


def settled_of(row: Row[Any]) -> Settled:
    """The outcome that a row holds."""
    values = row._mapping
    return Settled(
        status=values["status"],
        reply=values["reply"],
        prompt_tokens=values["prompt_tokens"],
        completion_tokens=values["completion_tokens"],
        cost_usd=values["cost_nano"] / NANO,
        estimated=bool(values["estimated"]),
        latency_s=values["latency_s"],
        attempts=values["attempts"],
        error=values["error"],
        hedged=bool(values["hedged"]),
    )


def claim_of(place: CallPlace, request_hash: str) -> str:
    """The key that identifies a call if it is made again: its place, and enough of the request's hash.

    It begins with the place, so that calls made at about the same time are neighbours in the index. A key that begins
    with the hash would spread them over many pages of the index, and a commit would write every one of them.
    """
    return _storable(f"{place.step}/{place.episode}/{place.turn}/{place.index}/{request_hash[:32]}")


def _nano(usd: float, field: str) -> int:
    if not 0 <= usd < 1e9:
        raise LedgerError(f"{field}={usd} of a call is not an amount of money; give dollars from 0")
    return round(usd * NANO)


def _storable(text: str) -> str:
    """`text` with lone surrogates and zero bytes replaced, because databases can't store them."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
