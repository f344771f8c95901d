"""A table of what the tests took, room by room, and the names of files that took more than their room allows one."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

import pytest

# What one file may take of all tests' time, in percent: among the tests without engines, and among those with. A share
# and no time, for on a slow machine every file is slow. A room that is not named here is as the one around it.
SHARES: dict[str, tuple[float, float]] = {
    "tests": (5, 6),
    "tests/actors": (5, 8),
    "tests/benchmarks": (5, 6),
    "tests/chaos": (5, 15),
    "tests/cluster": (8, 10),
    "tests/cluster/training": (5, 15),
    "tests/learner": (5, 12),
    "tests/rewards": (3, 3),
}
LEAST_FILES = 20
"""Where fewer were run nobody is named: of a few files, each has a large share."""


class Durations:
    """Adds up the reports of tests. Under pytest-xdist it belongs to the controller, which hears of all of them."""

    def __init__(self, engines: bool) -> None:
        self.engines = engines
        self.seconds: Counter[str] = Counter()  # by file
        self.tests: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add one phase of a test."""
        file = report.nodeid.partition("::")[0]
        self.seconds[file] += report.duration
        self.tests[file] += report.when == "setup"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, and below it the files that are too long."""
        if len(self.seconds) < 2:
            return
        terminalreporter.section("durations by room")
        for line in [*self.table(), *self.too_long()]:
            terminalreporter.write_line(line)

    def table(self) -> list[str]:
        """A line a room, the longest first: seconds, share, number of tests."""
        rooms: Counter[str] = Counter()
        tests: Counter[str] = Counter()
        for file, seconds in self.seconds.items():
            rooms[_room(file)] += seconds
            tests[_room(file)] += self.tests[file]
        return [
            f"{s:8.1f} s  {self._share(s):5.1f} %  {tests[room]:5d} tests  {room}" for room, s in rooms.most_common()
        ]

    def too_long(self) -> list[str]:
        """A line for each file that took more than its share."""
        if len(self.seconds) < LEAST_FILES:
            return []
        return [
            f"TOO LONG: {file} took {seconds:.1f} s, {self._share(seconds):.1f} % of all; a file of {_room(file)} may "
            f"take {allowed:g} % (tests/durations.py): split it, or find what it waits for"
            for file, seconds in self.seconds.most_common()
            if self._share(seconds) > (allowed := share_of(file)[self.engines])
        ]

    def _share(self, seconds: float) -> float:
        return 100 * seconds / max(self.seconds.total(), 1e-9)


def share_of(file: str) -> tuple[float, float]:
    """What the innermost room around the file that has a share allows it, without engines and with."""
    return next((SHARES[str(room)] for room in PurePosixPath(file).parents if str(room) in SHARES), SHARES["tests"])


def _room(file: str) -> str:
    return str(PurePosixPath(file).parent)
