"""The timeline: slices of time in which a process did something; the trace of a run is drawn from them."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

_MOST = 200_000  # slices kept until they are taken


@dataclass(frozen=True, slots=True)
class Slice:
    """One stretch of time. Two slices of one row are separate or nested; they never overlap in part."""

    name: str
    row: str  # the line on which it is drawn, among those of its process
    began: float  # seconds since the epoch
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)


class Timeline:
    """Keeps slices until they are taken; keeps none if it is off."""

    def __init__(self, on: bool) -> None:
        self.on = on
        self._slices: list[Slice] = []
        self._lost = 0
        self._lanes: defaultdict[str, set[int]] = defaultdict(set)
        self._epoch = time.time() - time.monotonic()  # fixed here, so that setting the clock later moves no slice

    @contextmanager
    def slice(self, name: str, row: str, **facts: Any) -> Iterator[dict[str, Any]]:
        """Record the block as a slice; facts known only later may be added to the yielded dictionary."""
        began = time.monotonic()
        try:
            yield facts
        finally:
            self.add(name, row, time.monotonic() - began, **facts)

    def add(self, name: str, row: str, seconds: float, **facts: Any) -> None:
        """Record a slice that lasted `seconds` and ends now."""
        if not self.on:
            return
        if len(self._slices) >= _MOST:
            self._lost += 1
        else:
            self._slices.append(Slice(name, row, self._epoch + time.monotonic() - seconds, seconds, facts))

    @contextmanager
    def lane(self, rows: str) -> Iterator[str]:
        """Reserve a row for the block: the first free one of `rows` 0, `rows` 1 and so on."""
        taken = self._lanes[rows]
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        taken.add(number)
        try:
            yield f"{rows} {number}"
        finally:
            taken.discard(number)

    def take(self) -> list[Slice]:
        """The slices recorded since the last call."""
        if self._lost:
            logger.warning("%d slices of the trace are lost: more than %d were kept", self._lost, _MOST)
        taken, self._slices, self._lost = self._slices, [], 0
        return taken
