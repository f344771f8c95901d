"""The world bench: trains the quickstart over seeds and cost weights α, and holds its figures to their targets."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.figures import Figure, at_least, at_most

SEEDS = (0, 1, 2)
ALPHAS = (0.0, 0.3, 0.6, 0.9)
FOLDER = Path("runs/bench-world")  # a run that is there already is not trained again
RUN_TIMEOUT_S = 1800.0
_GIB = 2**30
_UNSEEN = ("after_unseen", "oracle_unseen")

logger = logging.getLogger(__name__)


class BenchError(RuntimeError):
    """A run of the bench did not end well; the message holds its output."""


def run() -> list[Figure]:
    """Train every seed under every α (a run takes some minutes) and judge them."""
    return figures({(seed, alpha): train_once(seed, alpha) for alpha in ALPHAS for seed in SEEDS})


def train_once(seed: int, alpha: float, folder: Path = FOLDER) -> dict[str, Any]:
    """One run of the quickstart in a process of its own; its summary, with peak memory and wall seconds.

    Raises:
        BenchError: the run failed or took longer than `RUN_TIMEOUT_S`; its output is told.
    """
    name = f"{fingerprint()}-seed{seed}-alpha{alpha:g}"
    report = folder / name / "bench.json"
    if report.is_file():
        return dict(json.loads(report.read_text(encoding="utf-8")))
    shutil.rmtree(folder / name, ignore_errors=True)  # a run that was cut short
    logger.info("training %s: some minutes", name)
    command = [sys.executable, "-m", "cluster.cli", "train", "quickstart", f"run.folder={folder}", f"run.name={name}"]
    command += [f"run.seed={seed}", f"rewards.alpha={alpha}"]
    started = time.monotonic()
    # In a session of its own, so that Ctrl-C reaches it once, through us.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
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
    """What the figures depend on: recipe, policy and experts. Reports of other ones are not taken for these."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in (
        here.parent / "cluster" / "recipes" / "quickstart.yaml",
        here / "world" / "checkpoint" / "model.safetensors",
        here / "world" / "experts.py",
        here / "world" / "facts.py",
    ):
        digest.update(path.read_bytes())
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
    """Judge summaries by seed and α."""

    def over_seeds(alpha: float, value: Any) -> list[float]:
        return [value(runs[seed, alpha]) for seed in SEEDS]

    free = [runs[seed, 0.0] for seed in SEEDS]
    rows = [
        at_most("wall time of a run", [r["wall_s"] for r in runs.values()], "s", 600),
        at_most("peak memory of a run", [r["peak_bytes"] / _GIB for r in runs.values()], "GiB", 8),
        _mean_at_least("exact match over the oracle's, α = 0", [_ratio(r, "after", "oracle") for r in free], 0.90),
        _mean_at_least(
            "exact match over the best single expert's, α = 0",
            [100 * (r["after"]["em"] - r["best_single"]["em"]) for r in free],
            5,
            "points",
        ),
        at_most("exact match over the oracle's, before", [_ratio(r, "before", "oracle") for r in free], "ratio", 0.70),
        at_least("unseen experts: over the oracle's", [_ratio(r, *_UNSEEN) for r in free], "ratio", 0.85),
        at_most("largest call share over the oracle's, α = 0", [share_over_oracle(r) for r in free], "ratio", 1.5),
    ]
    cost = {a: statistics.mean(over_seeds(a, lambda r: r["after"]["cost_usd_per_1k_questions"])) for a in ALPHAS}
    em = {a: statistics.mean(over_seeds(a, lambda r: r["after"]["em"])) for a in ALPHAS}
    falls = [cost[a] - cost[b] for a, b in itertools.pairwise(ALPHAS)]
    rows += [
        Figure("cost, α = 0.6 over α = 0", cost[0.6] / cost[0.0], "ratio", "<= 0.5", cost[0.6] <= 0.5 * cost[0.0]),
        Figure("exact match lost, α = 0.6", 100 * (em[0.0] - em[0.6]), "points", "<= 8", em[0.0] - em[0.6] <= 0.08),
        _largest_step(falls),
    ]
    rows += [Figure(f"cost per 1k questions, α = {a:g}", cost[a], "USD", "", None) for a in ALPHAS]
    rows += [Figure(f"exact match, α = {a:g}", em[a], "share", "", None) for a in ALPHAS]
    return [
        *rows,
        at_most("engine against learner after a sync", [r["probe_max_diff"] for r in runs.values()], "nats", 1e-3),
        at_most("first-step ratio off 1", [r["first_step_ratio_deviation"] for r in runs.values()], "", 1e-3),
    ]


def share_over_oracle(summary: dict[str, Any]) -> float:
    """The most overused expert: its share of calls over its share under the oracle.

    An expert that the oracle never asks has no share to compare with; it is held to an even share of the pool.
    """
    oracle, after = summary["oracle"]["call_share"], summary["after"]["call_share"]
    even = 1 / len(summary["random"]["call_share"])
    return max(share / max(oracle.get(name, 0.0), even) for name, share in after.items())


def _largest_step(falls: list[float]) -> Figure:
    """How much of the whole fall in cost comes between two neighbouring α: a knob that jumps does it all in one."""
    share = max(falls) / sum(falls)
    return Figure("largest step of the cost knob", share, "of the fall", "<= 0.75", share <= 0.75)


def _ratio(summary: dict[str, Any], mine: str, theirs: str) -> float:
    return float(summary[mine]["em"] / summary[theirs]["em"])


def _mean_at_least(figure: str, values: list[float], limit: float, unit: str = "ratio") -> Figure:
    mean = statistics.mean(values)
    return Figure(
        f"{figure}, mean of {len(values)}", mean, unit, f">= {limit:g}", mean >= limit, (min(values), max(values))
    )
