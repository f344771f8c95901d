"""The survival bench: how much deaths slow a run down, and whether a killed driver costs it only time.

Goodput: the optimizer steps an hour of a run with two rollout workers, of which every minute one process is killed with
-9, each kind in turn, over those of the same run left alone; a step that is taken again counts once. Kills: a run
whose driver is killed at random moments and started again; every checkpoint is compared with that of a run left alone.
"""

from __future__ import annotations

import itertools
import logging
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.benches.figures import Figure, at_least
from cluster.benches.train_program import TrainProgram

BLOWS = ("VLLM::EngineCore", "ray::CandidateCaller", "ray::RolloutWorker", "ray::RankProcess")  # killed in turn
TITLES = dict(zip(BLOWS, ("an engine", "a caller", "a rollout worker", "a learner rank"), strict=True))
_START_S = 300.0
_POLL_S = 0.5
_GOODPUT = (
    "run.groups_per_step=8", "run.group_size=8", "data.eval_questions=16", "run.steps=100000", "run.checkpoint_every=1",
    "placement.rollout_workers=2", "placement.max_worker_restarts=100", "learner.max_restarts=100",
    "candidates.pool.caller_restarts=100", "candidates.latency_scale=1", "run.retry_pause_s=1", "run.max_staleness=1",
)  # fmt: skip
_KILLS = (
    "run.groups_per_step=4", "run.group_size=4", "data.eval_questions=16", "run.checkpoint_every=1",
    "run.keep_checkpoints=1000",
)  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    window_s: float = 600.0  # of the run with deaths
    calm_s: float = 480.0  # of the run left alone
    every_s: float = 60.0  # from one death to the next
    kills: int = 20
    steps: int = 12  # of a run that is killed


def run(size: Size | None = None) -> list[Figure]:
    """Measure both; about half an hour."""
    size = size or Size()
    with tempfile.TemporaryDirectory(prefix="router-r1-bench-") as folder:
        return [*goodput(Path(folder), size), *kills(Path(folder), size)]


def goodput(folder: Path, size: Size) -> list[Figure]:
    """The steps an hour of a run with deaths over those of the run left alone."""
    calm, _ = _steps_per_s(folder, "calm", size.calm_s, None)
    struck, lost_s = _steps_per_s(folder, "struck", size.window_s, size.every_s)
    rows = [
        Figure("left alone: steps an hour", 3600 * calm, "steps", "", None),
        Figure(f"a death every {size.every_s:g} s: steps an hour", 3600 * struck, "steps", "", None),
    ]
    for title, seconds in lost_s.items():
        rows.append(
            Figure(f"longest time without a step after {TITLES[title]} died", statistics.median(seconds), "s", "", None,
                   (min(seconds), max(seconds)))
        )  # fmt: skip
    return [*rows, at_least("goodput", [struck / calm], "ratio", 0.80)]


def _steps_per_s(
    folder: Path, name: str, window_s: float, every_s: float | None
) -> tuple[float, dict[str, list[float]]]:
    """Steps a second once the first steps are done, and the longest times without a step, by the kind that had died."""
    lost: dict[str, list[float]] = {}
    with TrainProgram(folder, name, _GOODPUT) as program:
        program.wait_for_step(3, _START_S)
        began, first = time.monotonic(), program.newest_step()
        titles = itertools.cycle(BLOWS)
        while (left_s := began + window_s - time.monotonic()) > 0:
            if every_s is None:
                time.sleep(left_s)
                break
            title = next(titles)
            _kill(program, title)
            gap = _longest_gap(program, min(every_s, left_s))
            lost.setdefault(title, []).append(gap)
            logger.info("%s died: %.1f s without a step; at step %d", TITLES[title], gap, program.newest_step())
        steps = program.newest_step() - first
        seconds = time.monotonic() - began
    logger.info("%s: %d steps in %.0f s", name, steps, seconds)
    return steps / seconds, lost


def _longest_gap(program: TrainProgram, seconds: float) -> float:
    """Watch a run for `seconds`; return the longest time in seconds in which no new step was done.

    Raises:
        TrainProgramError: the run ended meanwhile.
    """
    until = time.monotonic() + seconds
    newest, since, longest = program.newest_step(), time.monotonic(), 0.0
    while (now := time.monotonic()) < until:
        program.check_running()
        if program.newest_step() > newest:
            newest, since = program.newest_step(), now
        longest = max(longest, now - since)
        time.sleep(_POLL_S)
    return longest


def _kill(program: TrainProgram, title: str) -> None:
    """Kill the oldest process of that kind, if there is one."""
    found = []
    for process in program.family():
        try:
            if title in " ".join(process.cmdline()):
                found.append((process.create_time(), process.pid, process))
        except psutil.NoSuchProcess:
            continue
    if found:
        min(found)[2].kill()


def kills(folder: Path, size: Size) -> list[Figure]:
    """How many drivers were killed at random moments, and in how many of these cases the run had the same parameters as
    a run left alone, at every checkpoint."""
    settings = (*_KILLS, f"run.steps={size.steps}")
    began = time.monotonic()
    with TrainProgram(folder, "whole", settings) as whole:
        whole.wait(3600)
        whole_s = time.monotonic() - began
        expected = _parameters(whole)
    rng = random.Random("kills")
    done = same = 0
    for attempt in itertools.count():
        if done >= size.kills:
            break
        struck = 0
        ended = False
        while not ended:
            with TrainProgram(folder, f"killed-{attempt}", settings) as program:
                alive_s = rng.uniform(0, whole_s) if done + struck < size.kills else 3600.0
                until = time.monotonic() + alive_s
                while not program.ended and time.monotonic() < until:
                    time.sleep(0.05)
                ended = program.ended
                if ended:
                    program.wait(1)
                struck += not ended
                program.kill()
        done += struck
        same += struck if _parameters(program) == expected else 0
        logger.info(
            "%d kills in %d runs, after %d of which the run came to the same parameters at every step",
            done,
            attempt + 1,
            same,
        )
    return [
        Figure("drivers killed at random moments", done, "kills", "", None),
        Figure("of these, in runs that came to the same parameters", same, "kills", f">= {done}", same >= done),
    ]


def _parameters(program: TrainProgram) -> dict[int, bytes]:
    """A digest of the parameters of each whole checkpoint, by step."""
    import hashlib

    return {
        int(path.name.removeprefix("step_")): hashlib.sha256((path / "model.safetensors").read_bytes()).digest()
        for path in program.folder.checkpoints()
    }
