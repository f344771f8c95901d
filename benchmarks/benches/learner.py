"""The learner bench: updates of the product's gang beside a bare PyTorch loop and TRL's trainer, and peak memory.

All train one 4M-parameter Llama with random weights on the same 64 trajectories, by GRPO without a reference
policy. Each has a process of its own and one thread; they take turns, so that a slow minute of the machine hits all.
"""

from __future__ import annotations

import logging
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ray

from actors.episodes.trajectory import Trajectory
from actors.ray_start import init_own_ray
from benchmarks.benches import learner_memory
from benchmarks.benches.figures import Figure, at_least
from benchmarks.benches.learner_model import learner_settings, make_trajectories, save_model
from learner.gang import LearnerGang

ROUNDS = 3
TIMEOUT_S = 600.0

logger = logging.getLogger(__name__)


class WayProcess:
    """The Ray actor around a way to train; it keeps torch and TRL out of the driver."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.way = getattr(import_module(module), name)(*arguments)

    def update(self) -> None:
        self.way.update()


def run() -> list[Figure]:
    """Measure `ROUNDS` rounds after one of warm-up, then memory."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # looking for another, DeepSpeed would write to where the rows go
    init_own_ray(num_cpus=8)
    try:
        with tempfile.TemporaryDirectory(prefix="router-r1-bench-") as folder:
            save_model(Path(folder), learner_memory.SMALL_VOCAB)
            rates = measure(Path(folder), make_trajectories(), ROUNDS)
    finally:
        ray.shutdown()
    return [*judge(rates), *learner_memory.figures()]


def measure(checkpoint: Path, trajectories: Sequence[Trajectory], rounds: int) -> dict[str, list[float]]:
    """Update tokens/s of every way in every round, on a running Ray. TRL's is missing where TRL is not installed."""
    tokens = sum(len(t.token_ids) for t in trajectories)
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        ways = start_ways(checkpoint, trajectories, rounds, stack)
        for name, way in ways.items():
            logger.info("%s: first update", name)
            way()
        for number in range(rounds):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                rates.setdefault(name, []).append(tokens / (time.perf_counter() - began))
                logger.info("round %d of %d, %s: %.0f tokens/s", number + 1, rounds, name, rates[name][-1])
    return rates


def start_ways(
    checkpoint: Path, trajectories: Sequence[Trajectory], rounds: int, stack: ExitStack
) -> dict[str, Callable[[], object]]:
    """Start the processes; each returned function makes one update and returns when it is done.

    `stack` ends the gangs, and the others end with the last reference to them.
    """
    arguments = (checkpoint, trajectories, learner_settings())
    ways: dict[str, Callable[[], object]] = {"bare": _start("benchmarks.benches.bare_loop", "BareLoop", *arguments)}
    for stage in (0, 2):
        gang = LearnerGang(learner_settings(stage), checkpoint=checkpoint, temperature=1.0)
        stack.callback(gang.shutdown)
        ways[f"ZeRO-{stage}"] = partial(gang.train_step, trajectories)
    if find_spec("trl") is not None:
        ways["TRL"] = _start("benchmarks.benches.trl_update", "TrlUpdate", *arguments, rounds + 1)
    return ways


def _start(module: str, name: str, *arguments: Any) -> Callable[[], object]:
    """Start a way in a process of its own, with as many threads as a rank of the gang."""
    process = ray.remote(WayProcess).options(num_cpus=learner_settings().threads).remote(module, name, *arguments)
    return lambda: ray.get(process.update.remote(), timeout=TIMEOUT_S)


def judge(rates: dict[str, list[float]]) -> list[Figure]:
    """Rates and their ratios, round by round."""

    def over(mine: str, theirs: str) -> list[float]:
        return [a / b for a, b in zip(rates[mine], rates[theirs], strict=True)]

    figures = [
        Figure(f"update, {name}", statistics.median(values), "tokens/s", "", None, (min(values), max(values)))
        for name, values in rates.items()
    ]
    figures.append(at_least("update, ZeRO-0 over the bare loop", over("ZeRO-0", "bare"), "ratio", 0.92))
    figures.append(at_least("update, ZeRO-2 over the bare loop", over("ZeRO-2", "bare"), "ratio", 0.85))
    name = "update, ZeRO-0 over TRL"
    if "TRL" in rates:
        figures.append(at_least(name, over("ZeRO-0", "TRL"), "ratio", 1.7))
    else:
        figures.append(Figure(name, math.nan, "ratio", ">= 1.7, not measured: install the extra `bench`", None))
    return figures
