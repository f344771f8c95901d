"""The suite: measurements by name, each imported only when it is run."""

from __future__ import annotations

from importlib import import_module

from actors.errors import ExplainedError
from benchmarks.benches.figures import Figure

# name -> module with `run() -> list[Figure]`
BENCHES = {
    "caller": "benchmarks.benches.caller.bench",
    "control": "cluster.benches.control",
    "learner": "benchmarks.benches.learner",
    "overlap": "cluster.benches.overlap",
    "rollout": "benchmarks.benches.rollout",
    "score": "benchmarks.benches.score",
    "startup": "benchmarks.benches.startup",
    "survival": "cluster.benches.survival",
    "sync": "benchmarks.benches.sync",
    "world": "cluster.benches.world",
}


class UnknownBench(ExplainedError, ValueError):
    """There is no measurement of that name; the message lists the existing ones."""


def run_bench(name: str) -> list[Figure]:
    """Run a measurement.

    Raises:
        UnknownBench: there is no measurement of that name.
    """
    if name not in BENCHES:
        raise UnknownBench(f"bench {name!r}: not found; there are {', '.join(BENCHES)}")
    figures: list[Figure] = import_module(BENCHES[name]).run()
    return figures
