"""The sliding normaliser: rewards a cost by comparing it with the latest costs, as Router-R1 does."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping
from typing import Any

WINDOW = 1000
_LOW, _HIGH = 0.05, 0.95
_NARROW = 1e-8  # percentiles closer than this can't rank a cost: it gets _UNDECIDED
_UNDECIDED = 0.5


class SlidingNormaliser:
    """Maps a raw cost to a reward in [0, 1], cheap near 1, by a window of the latest costs.

    Router-R1, section 3.2 and appendix A: 1 − clip((√cost − lo) / (hi − lo), 0, 1), where lo and hi are the 5th and
    95th percentile (linear interpolation) of the latest 1,000 square roots, the current one included; 0.5 where
    lo and hi are less than 1e−8 apart. Every cost enters the window, so a reward depends on the costs before it.

    >>> normaliser = SlidingNormaliser()
    >>> [normaliser(cost) for cost in (4.0, 9.0, 1.0)]
    [0.5, 0.0, 1.0]
    """

    def __init__(self) -> None:
        self._window: deque[float] = deque()  # square roots, oldest first
        self._sorted = array("d")  # the same roots, ascending; an array is contiguous in memory, so bisection is fast

    def __call__(self, cost: float) -> float:
        """Enter a raw cost into the window; return its reward.

        Raises:
            ValueError: the cost is negative or not finite; the window stays as it was.
        """
        if not 0 <= cost < math.inf:
            raise ValueError(f"cost={cost} must be finite and not negative; check the prices that it was computed from")
        root = math.sqrt(cost)
        self._enter(root)
        low, high = self._percentile(_LOW), self._percentile(_HIGH)
        if high - low < _NARROW:
            return _UNDECIDED
        return 1.0 - min(max((root - low) / (high - low), 0.0), 1.0)

    def state(self) -> dict[str, list[float]]:
        """The state to resume from: the window's square roots, oldest first."""
        return {"window": list(self._window)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state()` returned.

        Raises:
            ValueError: `state` does not have the form that `state()` gives.
        """
        window = state.get("window")
        if not isinstance(window, list) or len(window) > WINDOW or not all(_is_root(value) for value in window):
            raise ValueError(
                f"window: expected a list of at most {WINDOW} finite numbers, none negative, in the normaliser's saved "
                "state; it is damaged, start without it"
            )
        self._window = deque(window)
        self._sorted = array("d", sorted(window))

    def _enter(self, root: float) -> None:
        if len(self._window) == WINDOW:
            del self._sorted[bisect_left(self._sorted, self._window.popleft())]
        self._window.append(root)
        insort(self._sorted, root)

    def _percentile(self, share: float) -> float:
        """Equals `numpy.percentile` bit for bit, so that rounding moves no result across a threshold."""
        position = (len(self._sorted) - 1) * share
        index = int(position)
        if index + 1 >= len(self._sorted):
            return self._sorted[-1]
        below, above = self._sorted[index], self._sorted[index + 1]
        weight = position - index
        if weight >= 0.5:
            return above - (above - below) * (1 - weight)
        return below + (above - below) * weight


def _is_root(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
