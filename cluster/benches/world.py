"""The world bench: trains the quickstart with several seeds and cost weights α, and compares figures with targets."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import shutil
import statistics
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from actors.child_process import child_environment, python_command
from actors.errors import ExplainedError
from benchmarks.benches import startup
from benchmarks.benches.figures import Figure, at_least, at_most
from benchmarks.evaluation.methods import (
    AFTER,
    BEFORE,
    BEST_CONSTANT_HINDSIGHT,
    METHODS,
    MOST_COMPETENT,
    RANDOM,
    UNSEEN,
)
from benchmarks.evaluation.old_names import summary_of_today
from benchmarks.world.coldstart import CHECKPOINT
from benchmarks.world.experts import experts

SEEDS = (0, 1, 2)
ALPHAS = (0.0, 0.3, 0.6, 0.9)
# Every seed with α = 0 and 0.6; the other α with the first seed alone.
PLAN = (*((seed, alpha) for seed in SEEDS for alpha in (0.0, 0.6)), (SEEDS[0], 0.3), (SEEDS[0], 0.9))
FOLDER = Path("runs/bench-world")  # a run that exists is not trained again
RUN_TIMEOUT_S = 1800.0
_GIB = 2**30
_UNSEEN = (AFTER + UNSEEN, MOST_COMPETENT + UNSEEN)

logger = logging.getLogger(__name__)


class BenchError(ExplainedError, RuntimeError):
    """A run of the bench did not end well; the message holds its output."""


def run() -> list[Figure]:
    """Train all of `PLAN` (a run takes some minutes) and judge the runs."""
    return [*figures({(seed, alpha): train_once(seed, alpha) for seed, alpha in PLAN}), *startup.run()]


def train_once(seed: int, alpha: float, folder: Path = FOLDER) -> dict[str, Any]:
    """Train the quickstart in a process of its own; return its summary, with `peak_bytes` and `wall_s` (seconds) added.

    Raises:
        BenchError: the run failed, and the message holds its output; or it took longer than `RUN_TIMEOUT_S` seconds.
    """
    name = f"{fingerprint()}-seed{seed}-alpha{alpha:g}"
    report = folder / name / "bench.json"
    if report.is_file():
        return summary_of_today(json.loads(report.read_text(encoding="utf-8")))
    shutil.rmtree(folder / name, ignore_errors=True)  # a run that was cut short
    logger.info("training %s: some minutes", name)
    command = python_command("-m", "cluster.cli", "train", "quickstart", f"run.folder={folder}", f"run.name={name}")
    command += [f"run.seed={seed}", f"rewards.alpha={alpha}"]
    started = time.monotonic()
    # In a session of its own, so that Ctrl-C reaches it once, through us.
    process = subprocess.Popen(
        command,
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    memory = PeakMemory(process.pid)
    try:
        output, _ = process.communicate(timeout=RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{' '.join(command)} was not done within {RUN_TIMEOUT_S:g} s") from error
    finally:
        peak = memory.stop()
        if process.poll() is None:
            _end(process)
    if process.returncode != 0:
        raise BenchError(f"{' '.join(command)} ended with {process.returncode}:\n{output[-3000:]}")
    summary = json.loads((folder / name / "summary.json").read_text(encoding="utf-8"))
    summary |= {"wall_s": time.monotonic() - started, "peak_bytes": peak}
    report.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return dict(summary)


def fingerprint() -> str:
    """A digest of recipe, policy and experts, on which the figures depend: reports made with others are not used."""
    recipe = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
    digest = hashlib.sha256(recipe.read_bytes())
    digest.update((CHECKPOINT / "model.safetensors").read_bytes())
    digest.update(repr((experts("seen"), experts("unseen"))).encode())
    return digest.hexdigest()[:8]


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(90)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


class PeakMemory:
    """The largest memory that a process and its descendants held, sampled every second.

    Proportional set size: a page that several processes share counts once in all.
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._stopped.wait(1.0):
            self._peak = max(self._peak, self._held())

    def _held(self) -> int:
        try:
            family = [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        return sum(map(_proportional_bytes, family))


def _proportional_bytes(process: psutil.Process) -> int:
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as lines:  # noqa: PTH123
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):  # it has ended meanwhile
        return 0


def figures(runs: dict[tuple[int, float], dict[str, Any]]) -> list[Figure]:
    """Judge summaries by seed and α. A bound on every run is compared with the worst run."""
    free = [runs[seed, 0.0] for seed in SEEDS]
    pairs = [(runs[seed, 0.0], runs[seed, 0.6]) for seed in SEEDS]
    knob = {alpha: runs[SEEDS[0], alpha] for alpha in ALPHAS}
    return [
        _worst("wall time of a run", [r["wall_s"] for r in runs.values()], "s", 600),
        _worst("peak memory of a run", [r["peak_bytes"] / _GIB for r in runs.values()], "GiB", 8),
        *map(_defined, _beside_methods(free)),
        at_most("cost, α = 0.6 over α = 0", [_cost(b) / _cost(a) for a, b in pairs], "ratio", 0.5),
        _mean_at_most("exact match lost, α = 0.6", [_lost(a, b) for a, b in pairs], "points", 8),
        largest_step([_cost(knob[alpha]) for alpha in ALPHAS]),
        *(Figure(f"cost per 1k questions, α = {a:g}, seed 0", _cost(run), "USD", "", None) for a, run in knob.items()),
        *(Figure(f"exact match, α = {a:g}, seed 0", run["after"]["em"], "share", "", None) for a, run in knob.items()),
        _worst("engine against learner after a sync", [r["probe_max_diff"] for r in runs.values()], "nats", 1e-3),
        _worst("first-step ratio off 1", [r["first_step_ratio_deviation"] for r in runs.values()], "", 1e-3),
    ]


def _beside_methods(free: list[dict[str, Any]]) -> list[Figure]:
    """Figures that compare the runs with α = 0 with the methods that bound them in the world."""
    ideal, constant = METHODS[MOST_COMPETENT].name, METHODS[BEST_CONSTANT_HINDSIGHT].name
    shares = [share_over_most_competent(each) for each in free]
    return [
        _mean_at_least(f"exact match over the {ideal}'s, α = 0", _ratios(free, AFTER, MOST_COMPETENT), "ratio", 0.9),
        _mean_at_least(f"over the {constant}, α = 0", [_lead(each) for each in free], "points", 5),
        at_most(f"exact match over the {ideal}'s, before", _ratios(free, BEFORE, MOST_COMPETENT), "ratio", 0.7),
        at_least(f"unseen experts: over the {ideal}'s", _ratios(free, *_UNSEEN), "ratio", 0.85),
        _worst(f"largest call share over the {ideal}'s, α = 0", shares, "ratio", 1.5),
    ]


def _defined(figure: Figure) -> Figure:
    """The figure with the definition of the method that it names."""
    [method] = [
        each for key in (MOST_COMPETENT, BEST_CONSTANT_HINDSIGHT) if (each := METHODS[key]).name in figure.figure
    ]
    return replace(figure, note=method.line)


def share_over_most_competent(summary: dict[str, Any]) -> float:
    """The most overused expert: its share of calls over its share when the most competent one is asked.

    An expert that is never the most competent has no share to compare with; it is compared with an even share.
    """
    ideal, after = summary[MOST_COMPETENT]["call_share"], summary[AFTER]["call_share"]
    even = 1 / len(summary[RANDOM]["call_share"])
    return max(share / (ideal.get(name) or even) for name, share in after.items())


def largest_step(costs: list[float]) -> Figure:
    """The largest part of the whole fall in cost that lies between two neighbouring α: near 1 if the cost jumps.

    Infinite if cost rises with α, or does not fall at all.
    """
    falls = [before - after for before, after in itertools.pairwise(costs)]
    share = max(falls) / sum(falls) if min(falls) >= -0.02 * costs[0] and sum(falls) > 0 else math.inf
    return Figure("largest step of the cost knob", share, "of the fall", "<= 0.75", share <= 0.75)


def _cost(summary: dict[str, Any]) -> float:
    return float(summary["after"]["cost_usd_per_1k_questions"])


def _lead(summary: dict[str, Any]) -> float:
    return float(100 * (summary[AFTER]["em"] - summary[BEST_CONSTANT_HINDSIGHT]["em"]))


def _lost(free: dict[str, Any], dear: dict[str, Any]) -> float:
    return float(100 * (free["after"]["em"] - dear["after"]["em"]))


def _ratios(summaries: list[dict[str, Any]], mine: str, theirs: str) -> list[float]:
    return [summary[mine]["em"] / summary[theirs]["em"] for summary in summaries]


def _mean(values: list[float]) -> float:
    return float(statistics.mean(values))


def _worst(figure: str, values: list[float], unit: str, limit: float) -> Figure:
    worst = max(values)
    return Figure(f"{figure}, worst", worst, unit, f"<= {limit:g}", worst <= limit, (min(values), worst))


def _mean_at_least(figure: str, values: list[float], unit: str, limit: float) -> Figure:
    mean = _mean(values)
    return Figure(f"{figure}, mean", mean, unit, f">= {limit:g}", mean >= limit, (min(values), max(values)))


def _mean_at_most(figure: str, values: list[float], unit: str, limit: float) -> Figure:
    mean = _mean(values)
    return Figure(f"{figure}, mean", mean, unit, f"<= {limit:g}", mean <= limit, (min(values), max(values)))
