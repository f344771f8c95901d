"""The clock: wall seconds of a run, by phase."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Lap:
    """One timed stretch; `seconds` is known once it has ended."""

    seconds = 0.0


class Clock:
    """Wall seconds by phase."""

    def __init__(self, elapsed_s: float = 0.0) -> None:
        """`elapsed_s`: what the run had taken before it was stopped."""
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

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started
