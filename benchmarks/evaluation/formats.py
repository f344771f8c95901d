"""Numbers of an evaluation as text: shares in percent, differences in points, dollars, and their intervals.

Where a number is not known, the text is None.
"""

from __future__ import annotations

import math

from benchmarks.evaluation.statistics import Interval
from benchmarks.evaluation.tables import UNKNOWN


def percent(share: float | None) -> str | None:
    """A share in percent, without the sign."""
    return None if share is None or math.isnan(share) else f"{100 * share:.1f}"


def dollars(amount: float | None) -> str | None:
    """Dollars to four digits, without the sign."""
    return None if amount is None else f"{amount:,.4g}"


def bounds(value: Interval) -> str | None:
    """The bounds of a share, in percent."""
    return f"{percent(value.low)} – {percent(value.high)}" if value.known else None


def share_text(value: Interval | None) -> str | None:
    """A share in percent, with its bounds."""
    if value is None or math.isnan(value.mean):
        return None
    return f"{percent(value.mean)}" + (f" ({bounds(value)})" if value.known else "")


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def point_bounds(value: Interval) -> str | None:
    """The bounds of a difference, in points."""
    return f"{points(value.low)} to {points(value.high)}" if value.known else None


def points_text(value: Interval) -> str:
    """A difference in points, with its bounds."""
    return points(value.mean) + (f" ({point_bounds(value)})" if value.known else "")


def interval_text(value: Interval | None, form: str = ".3f") -> str:
    """A mean with its bounds in a sentence, in the unit of the scores."""
    if value is None:
        return UNKNOWN
    return f"{value.mean:{form}}" + (f" ({value.low:{form}} - {value.high:{form}})" if value.known else "")
