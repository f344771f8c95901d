"""The timeline: what a process did when, in slices from which the trace of a run is drawn."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

_MOST = 200_000  # slices that wait to be taken


@dataclass(frozen=True, slots=True)
class Slice:
    """One stretch of time; slices of one row lie beside or within one another, and never cross."""

    name: str
    row: str  # the line that it is drawn on, within its process
    began: float  # seconds since the epoch
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)


class Timeline:
    """Keeps slices until they are taken; nothing where it is off."""

    def __init__(self, on: bool) -> None:
        self.on = on
        self._slices: list[Slice] = []
        self._lost = 0
        self._lanes: defaultdict[str, set[int]] = defaultdict(set)
        self._epoch = time.time() - time.monotonic()  # a clock that is set meanwhile moves no slice

    @contextmanager
    def slice(self, name: str, row: str, **facts: Any) -> Iterator[dict[str, Any]]:
        """What goes on inside is a slice; facts known only at its end go into the dictionary."""
        began = time.monotonic()
        try:
            yield facts
        finally:
            self.add(name, row, time.monotonic() - began, **facts)

    def add(self, name: str, row: str, seconds: float, **facts: Any) -> None:
        """A slice that ends now."""
        if not self.on:
            return
        if len(self._slices) >= _MOST:
            self._lost += 1
        else:
            self._slices.append(Slice(name, row, self._epoch + time.monotonic() - seconds, seconds, facts))

    @contextmanager
    def lane(self, rows: str) -> Iterator[str]:
        """A row of its own, for as long as it goes on; the first that is free of those that begin with `rows`."""
        taken = self._lanes[rows]
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        taken.add(number)
        try:
            yield f"{rows} {number}"
        finally:
            taken.discard(number)

    def take(self) -> list[Slice]:
        """The slices since the last time."""
        if self._lost:
            logger.warning("%d slices of the trace are lost: more than %d were kept", self._lost, _MOST)
        taken, self._slices, self._lost = self._slices, [], 0
        return taken
