"""The load: how many things were under way, over time."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadReading:
    """What a load has come to since it began; the difference of two is that of the time between them."""

    seconds: float  # since it began
    busy_s: float  # of them, those with something under way
    count_s: float  # the number under way, summed over the seconds

    def __sub__(self, before: LoadReading) -> LoadReading:
        return LoadReading(self.seconds - before.seconds, self.busy_s - before.busy_s, self.count_s - before.count_s)

    @property
    def idle(self) -> float:
        """Share of the time with nothing under way; 0 of no time."""
        return 1 - self.busy_s / self.seconds if self.seconds > 0 else 0.0

    @property
    def mean(self) -> float:
        """Mean number under way; 0 of no time."""
        return self.count_s / self.seconds if self.seconds > 0 else 0.0


class Load:
    """Counts what is under way, and integrates the count."""

    def __init__(self) -> None:
        self.count = 0
        self._began = self._changed = time.monotonic()
        self._busy_s = self._count_s = 0.0

    def change(self, by: int) -> None:
        """So many more are under way from now on; fewer, if negative."""
        self._settle()
        self.count += by

    def read(self) -> LoadReading:
        """What it has come to up to now."""
        self._settle()
        return LoadReading(self._changed - self._began, self._busy_s, self._count_s)

    def _settle(self) -> None:
        now = time.monotonic()
        passed, self._changed = now - self._changed, now
        if self.count > 0:
            self._busy_s += passed
            self._count_s += passed * self.count
