"""The report of a weight sync: its size and its times. Imports no torch, because the driver reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SyncReport:
    """One sync of one policy version."""

    version: int
    sent_bytes: int  # to each engine
    seconds: float  # from the first gathering until the last engine uses the weights
    stall_s: float  # longest pause of an engine
