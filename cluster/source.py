"""The question source: draws questions in a seeded order, epoch after epoch, and can be resumed anywhere."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from actors.questions import Question


@dataclass(slots=True)
class QuestionSource:
    """Every question comes once an epoch; each epoch has an order of its own. `cursor` counts those drawn."""

    questions: Sequence[Question]
    seed: int
    cursor: int = 0

    def draw(self, count: int) -> list[Question]:
        """The next `count` questions."""
        drawn = [self._at(position) for position in range(self.cursor, self.cursor + count)]
        self.cursor += count
        return drawn

    def _at(self, position: int) -> Question:
        epoch, offset = divmod(position, len(self.questions))
        return self.questions[self._order(epoch)[offset]]

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.questions)))
        random.Random(f"source-{self.seed}-{epoch}").shuffle(order)
        return order
