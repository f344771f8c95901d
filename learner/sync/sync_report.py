"""What a weight sync took. Imports no torch: the driver reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SyncReport:
    """One sync of one policy version."""

    version: int
    sent_bytes: int  # to each engine
    seconds: float  # from the first gathering until the last engine used the weights
    stall_s: float  # of the engine that stood still for longest
