"""The load: the integral of its count equals the sum over all intervals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import load
from actors.load import Load, LoadReading


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(-3, 3)), max_size=30))
def test_it_is_the_sum_over_the_stretches(changes: list[tuple[float, int]]) -> None:
    now, count = 5.0, 0
    busy = area = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load.time, "monotonic", lambda: now)
        measured = Load()
        for seconds, by in changes:
            by = max(by, -count)
            now += seconds
            busy, area = busy + seconds * (count > 0), area + seconds * count
            measured.change(by)
            count += by
        reading = measured.read()
    assert measured.count == count
    assert reading.seconds == pytest.approx(now - 5)
    assert reading.busy_s == pytest.approx(busy)
    assert reading.count_s == pytest.approx(area)
    assert reading.idle == pytest.approx(1 - busy / (now - 5) if now > 5 else 0.0)


def test_the_difference_of_two_readings_is_the_time_between() -> None:
    span = LoadReading(10, 6, 12) - LoadReading(4, 3, 3)
    assert span == LoadReading(6, 3, 9)
    assert (span.idle, span.mean) == (0.5, 1.5)
    assert LoadReading(0, 0, 0).idle == LoadReading(0, 0, 0).mean == 0
