"""Fixtures shared by tests of evaluations, which play over models on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from endpoints import Endpoints, Words


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoints]:
    """Loopback models, and words for the policy's tokens: importing transformers takes seconds."""
    monkeypatch.setattr("cluster.players.players.load_tokenizer", lambda _: Words())
    made = Endpoints()
    yield made
    made.stop()
