"""The load: the number of tasks in progress, integrated over time."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadReading:
    """The totals of a load since it began. The difference of two readings covers the time between them."""

    seconds: float  # since the load began
    busy_s: float  # of these, the seconds with a count above 0
    count_s: float  # integral of the count over time: two tasks for three seconds add 6

    def __sub__(self, before: LoadReading) -> LoadReading:
        return LoadReading(self.seconds - before.seconds, self.busy_s - before.busy_s, self.count_s - before.count_s)

    @property
    def idle(self) -> float:
        """Share of the time with nothing in progress; 0 if no time has passed."""
        return 1 - self.busy_s / self.seconds if self.seconds > 0 else 0.0

    @property
    def mean(self) -> float:
        """Mean number of tasks in progress; 0 if no time has passed."""
        return self.count_s / self.seconds if self.seconds > 0 else 0.0


class Load:
    """Counts the tasks in progress, and integrates the count over time."""

    def __init__(self) -> None:
        self.count = 0
        self._began = self._changed = time.monotonic()
        self._busy_s = self._count_s = 0.0

    def change(self, by: int) -> None:
        """Add `by`, which may be negative, to the count."""
        self._settle()
        self.count += by

    def read(self) -> LoadReading:
        """The totals up to now."""
        self._settle()
        return LoadReading(self._changed - self._began, self._busy_s, self._count_s)

    def _settle(self) -> None:
        now = time.monotonic()
        passed, self._changed = now - self._changed, now
        if self.count > 0:
            self._busy_s += passed
            self._count_s += passed * self.count
