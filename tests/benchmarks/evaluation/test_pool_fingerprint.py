"""Fingerprints of pools: equal for equal candidates; differences are named."""

from __future__ import annotations

import pytest

from actors.pool.cards import ModelCard
from benchmarks.evaluation.pool_fingerprint import difference, fingerprint

CARDS = [
    ModelCard(name=name, descriptor="x", base_url="http://127.0.0.1:1/v1", price_out_usd_per_mtok=1.0)
    for name in ("a", "b")
]


def test_order_endpoint_and_description_do_not_count() -> None:
    moved = [card.model_copy(update={"base_url": "http://elsewhere/v1", "descriptor": "y"}) for card in CARDS[::-1]]
    assert fingerprint(moved) == fingerprint(CARDS)
    assert difference(moved, CARDS) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("price_in_usd_per_mtok", 2.0),
        ("model", "c"),
        ("max_output_tokens", 9),
        ("requests_per_minute", 3.0),
        ("temperature", 0.5),
    ],
)
def test_models_prices_and_limits_count(field: str, value: object) -> None:
    other = [CARDS[0].model_copy(update={field: value}), CARDS[1]]
    assert fingerprint(other) != fingerprint(CARDS)
    assert difference(other, CARDS) == [f"a: {field} was {getattr(CARDS[0], field)}, is {value}"]


def test_who_is_new_or_missing_is_named() -> None:
    assert difference(CARDS[:1], CARDS[1:]) == ["a is new", "b is missing"]
