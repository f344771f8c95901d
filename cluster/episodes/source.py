"""The question source: draws questions in a seeded order, epoch after epoch, and can be resumed anywhere."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from actors.questions import Question


@dataclass(slots=True)
class QuestionSource:
    """Draws each question once an epoch; each epoch has an order of its own. `cursor` counts the questions drawn."""

    questions: Sequence[Question]
    seed: int
    cursor: int = 0

    def draw(self, count: int) -> list[Question]:
        """The next `count` questions."""
        size = len(self.questions)
        places = range(self.cursor, self.cursor + count)
        orders = {epoch: self._order(epoch) for epoch in {place // size for place in places}}
        self.cursor += count
        return [self.questions[orders[place // size][place % size]] for place in places]

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.questions)))
        random.Random(f"source-{self.seed}-{epoch}").shuffle(order)
        return order
