"""The caller's counters: its calls, its requests and their cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields


@dataclass(slots=True)
class CallerStats:
    """Counters since the caller started; with a ledger, `usd` counts from the start of the run."""

    calls: int = 0  # all that were asked, however they ended
    attempts: int = 0  # HTTP requests for them, hedges included
    in_flight: int = 0
    up_s: float = 0.0  # since the caller started
    busy_s: float = 0.0  # of these, the seconds with a call in progress
    cancelled: int = 0
    status: Counter[str] = field(default_factory=Counter)  # finished calls by CallStatus
    usd: Counter[str] = field(default_factory=Counter)  # spent, by card name, failed attempts included
    reserved_usd: float = 0.0  # for requests in progress
    nonsense: Counter[str] = field(default_factory=Counter)  # replies whose usage is impossible, by card name
    hits: int = 0  # answered by the ledger
    joined: int = 0  # answered by an identical call in flight
    hedges: int = 0  # second requests
    breakers: dict[str, str] = field(default_factory=dict)  # BreakerState by endpoint host
    limits: dict[str, int] = field(default_factory=dict)  # calls that may be in progress, by endpoint host

    @property
    def over_budget(self) -> int:
        """Calls refused because of a cap."""
        return self.status["over_budget"]


def add_stats(parts: Iterable[CallerStats]) -> CallerStats:
    """The sums of the counters of several callers."""
    total = CallerStats()
    for part in parts:
        for item in fields(CallerStats):
            value = getattr(part, item.name)
            if isinstance(value, dict):
                getattr(total, item.name).update(value)
            else:
                setattr(total, item.name, getattr(total, item.name) + value)
    return total
