"""The cards of a recorded run: its candidates, as far as its configuration still leads to their cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from actors.pool.cards import CardError, ModelCard, find_pool, load_cards
from benchmarks.world.experts import Cohort, experts
from benchmarks.world.recorded import RepliesError, recorded_cards
from cluster.runs.record import RunRecord, setting

_NOWHERE = "http://127.0.0.1:1/v1"  # the cards are read for their prices; no candidate is called


@dataclass(frozen=True, slots=True)
class RunCards:
    """Cards by name, as they are now: those of training, those that training never saw, and a note on them."""

    seen: Mapping[str, ModelCard] = field(default_factory=dict)
    unseen: Mapping[str, ModelCard] = field(default_factory=dict)
    note: str = "Prices are those of the cards as they are now."

    @property
    def all(self) -> dict[str, ModelCard]:
        return {**self.seen, **self.unseen}


def run_cards(record: RunRecord) -> RunCards:
    """The cards that a run's configuration names. If they can't be read, there are none, and the note says why."""

    def of_file(key: str) -> list[ModelCard]:
        file = setting(record.config, key)
        return load_cards(find_pool(Path(file))) if file else []

    def of_world(cohort: Cohort) -> list[ModelCard]:
        return [expert.card(_NOWHERE) for expert in experts(cohort)]

    serve, replies = setting(record.config, "candidates.serve"), setting(record.config, "candidates.replies")
    try:
        if serve == "world":
            seen, unseen = of_world("seen"), of_world("unseen")
        elif serve == "recorded" and replies:
            seen, unseen = recorded_cards(Path(replies), _NOWHERE), []
        else:
            seen, unseen = of_file("candidates.pool.cards"), of_file("candidates.unseen_cards")
    except (CardError, RepliesError, OSError) as error:
        return RunCards(note=f"Prices are not known, because the cards can't be read: {error}")
    return RunCards({card.name: card for card in seen}, {card.name: card for card in unseen})
