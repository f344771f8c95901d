"""The fingerprint of a pool. Two tables with the same one were measured with the same candidates and prices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from actors.pool.cards import ModelCard

# The fields that determine replies and their prices. Endpoints and descriptors are left out: the same pool may move to
# another host or get other descriptions.
_FIELDS = (
    "model",
    "revision",
    "price_in_usd_per_mtok",
    "price_out_usd_per_mtok",
    "context_tokens",
    "max_output_tokens",
    "requests_per_minute",
    "tokens_per_minute",
    "temperature",
    "top_p",
)


def card_facts(cards: Sequence[ModelCard]) -> dict[str, dict[str, Any]]:
    """By card name, in alphabetical order, the fields that are hashed."""
    return {card.name: {name: getattr(card, name) for name in _FIELDS} for card in sorted(cards, key=lambda c: c.name)}


def fingerprint(cards: Sequence[ModelCard]) -> str:
    """Twelve hexadecimal digits of the cards' names, models, prices and limits; the cards' order is irrelevant."""
    text = json.dumps(card_facts(cards), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def difference(ours: Sequence[ModelCard], theirs: Sequence[ModelCard]) -> list[str]:
    """How our pool differs from theirs: a line for each different field or card; empty for equal fingerprints."""
    mine, others = card_facts(ours), card_facts(theirs)
    lines = [f"{name} is new" for name in mine if name not in others]
    lines += [f"{name} is missing" for name in others if name not in mine]
    for name in mine:
        before, now = others.get(name, mine[name]), mine[name]
        lines += [
            f"{name}: {field} was {before[field]}, is {now[field]}" for field in _FIELDS if before[field] != now[field]
        ]
    return lines
