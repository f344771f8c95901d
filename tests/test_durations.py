"""The table of durations: rooms are added up, and only a file beyond its share is named."""

from __future__ import annotations

import pytest
from durations import LEAST_FILES, SHARES, Durations, share_of


def report(file: str, when: str, duration: float) -> pytest.TestReport:
    return pytest.TestReport(f"{file}::test", (file, 0, "test"), {}, "passed", None, when, duration=duration)


def durations(engines: bool, **seconds: float) -> Durations:
    made = Durations(engines)
    for name, each in seconds.items():
        file = "tests/" + name.replace("__", "/") + ".py"
        for when in ("setup", "call", "teardown"):
            made.pytest_runtest_logreport(report(file, when, each / 3))
    return made


def test_a_room_s_line_has_what_its_files_took() -> None:
    made = durations(False, cluster__test_a=30, cluster__test_b=30, cluster__report__test_c=90)
    first, second = made.table()
    assert first.split() == ["90.0", "s", "60.0", "%", "1", "tests", "tests/cluster/report"]
    assert second.split() == ["60.0", "s", "40.0", "%", "2", "tests", "tests/cluster"]


def test_a_file_is_named_beyond_its_share_of_this_part_and_not_before() -> None:
    without, within = SHARES["tests/chaos"]
    assert without < 10 < within
    rest = {f"cluster__test_{n}": 9.0 for n in range(100)}
    [line] = durations(False, chaos__test_long=100, **rest).too_long()
    assert "tests/chaos/test_long.py took 100.0 s, 10.0 % of all" in line
    assert durations(True, chaos__test_long=100, **rest).too_long() == []


def test_of_a_few_files_nobody_is_named() -> None:
    few = {f"cluster__test_{n}": 9.0 for n in range(LEAST_FILES - 2)}
    assert durations(False, chaos__test_long=100, **few).too_long() == []
    assert durations(False, chaos__test_long=100, **few, cluster__test_more=9.0).too_long() != []


def test_a_room_without_a_share_is_as_the_one_around_it() -> None:
    assert share_of("tests/cluster/report/test_page.py") == SHARES["tests/cluster"]
    assert share_of("tests/test_house.py") == SHARES["tests"]
    assert share_of("elsewhere/test_it.py") == SHARES["tests"]
