"""The suite: measurements by name, each imported only when it is run."""

from __future__ import annotations

from importlib import import_module

from benchmarks.figures import Figure

# name -> module with `run() -> list[Figure]`
BENCHES = {
    "caller": "benchmarks.caller.bench",
    "control": "cluster.control_bench",
    "learner": "benchmarks.learner_bench",
    "overlap": "cluster.overlap_bench",
    "rollout": "benchmarks.rollout_bench",
    "score": "benchmarks.score_bench",
    "startup": "benchmarks.startup",
    "survival": "cluster.survival_bench",
    "sync": "benchmarks.sync_bench",
    "world": "benchmarks.world_bench",
}


class UnknownBench(ValueError):
    """There is no measurement of that name; the message lists those there are."""


def run_bench(name: str) -> list[Figure]:
    """Run a measurement.

    Raises:
        UnknownBench: there is none of that name.
    """
    if name not in BENCHES:
        raise UnknownBench(f"bench {name!r}: not found; there are {', '.join(BENCHES)}")
    figures: list[Figure] = import_module(BENCHES[name]).run()
    return figures
