"""The clock: wall-clock seconds of a run, by phase."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from actors.timeline import Timeline


class Lap:
    """One timed phase; `seconds` is set when it ends."""

    seconds = 0.0


class Clock:
    """Wall-clock seconds by phase; each phase is also a slice of the timeline."""

    def __init__(self, elapsed_s: float = 0.0, timeline: Timeline | None = None) -> None:
        """`elapsed_s`: seconds that the run had taken before it was stopped."""
        self.timeline = timeline or Timeline(on=False)
        self.started = time.monotonic() - elapsed_s
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[Lap]:
        lap, began = Lap(), time.monotonic()
        try:
            yield lap
        finally:
            lap.seconds = time.monotonic() - began
            self.seconds[phase] += lap.seconds  # type: ignore[assignment]
            self.timeline.add(phase, "phases", lap.seconds)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started
