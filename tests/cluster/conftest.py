"""Fixtures shared by tests of evaluations, which use models on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from endpoints import Endpoints, Words


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoints]:
    """Models on loopback, and words as the policy's tokens, because importing transformers takes seconds."""
    monkeypatch.setattr("cluster.players.players.load_tokenizer", lambda _: Words())
    made = Endpoints()
    yield made
    made.stop()
