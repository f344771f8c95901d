"""The circuit breaker of an endpoint: while a provider is down, calls fail at once, except for a few that probe it."""

from __future__ import annotations

import time
from enum import StrEnum

# Failures come in bursts: calls that are sent together fail together, even if others beside them succeed. So the
# breaker opens only if nothing succeeds for a while. The retries of one call alone open it within two seconds.
_FAILURES = 4  # in a row
_SILENCE_S = 0.5  # from the first of these failures to the last
_PROBE_EVERY_S = 1.0


class BreakerState(StrEnum):
    """What a breaker does with the next call."""

    CLOSED = "closed"  # lets it through
    OPEN = "open"  # fails it
    HALF_OPEN = "half_open"  # lets it through as a probe


class Breaker:
    """Opens after failures in a row, and closes with the first success.

    | state | goes to | when |
    | --- | --- | --- |
    | closed | open | four failures or more in a row, over half a second or more |
    | open | half open | a second after it opened or let the last probe through |
    | half open | open | a call was let through as a probe |
    | any | closed | a call succeeds |

    Only broken connections, hangs and 5xx count as failures, because they show that the provider is down. A refusal or
    a rate limit counts as a success. A probe that hangs does not delay the next one. Time is monotonic.
    """

    def __init__(self) -> None:
        self._failures = 0  # in a row
        self._first_failure_s = 0.0
        self._probe_at_s: float | None = None  # None: closed

    @property
    def state(self) -> BreakerState:
        if self._probe_at_s is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if time.monotonic() < self._probe_at_s else BreakerState.HALF_OPEN

    @property
    def next_probe_s(self) -> float:
        """Seconds until a call may go through."""
        return 0.0 if self._probe_at_s is None else max(0.0, self._probe_at_s - time.monotonic())

    def admit(self) -> bool:
        """True if a call may be sent now; in a half-open breaker, this call is the probe."""
        if self._probe_at_s is None:
            return True
        now = time.monotonic()
        if now < self._probe_at_s:
            return False
        self._probe_at_s = now + _PROBE_EVERY_S
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._probe_at_s = None

    def failed(self) -> None:
        now = time.monotonic()
        if self._failures == 0:
            self._first_failure_s = now
        self._failures += 1
        lasting = self._failures >= _FAILURES and now - self._first_failure_s >= _SILENCE_S
        if self._probe_at_s is None and lasting:
            self._probe_at_s = now + _PROBE_EVERY_S
