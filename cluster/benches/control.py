"""The control bench: what a trajectory costs the driver, from its request to the learner's batch, however many workers.

Workers play from scripts (`benchmarks.benches.scripted_worker`). The driver's side is that of a run: `Windows` and
`Fleet`, the judge, admission and the batch's numbers, credit and packing. Only the
way to the learner's ranks is left out.

Eight processes stand for all workers, up to 32 for each: the fleet keeps 256 apart, gives each its groups and pings it,
but the driver holds 8 connections. On two cores, of 256 processes of Ray's 163 had started after four minutes, and the
background threads of 64 that do nothing take half a core, so that they would be measured and not the driver.

Every number of workers gets the same batches, in turns, so that what differs is the workers alone. The driver's
processor time is that of all threads of its process.
"""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import astuple, dataclass
from typing import Any

import ray

from benchmarks.benches.figures import Figure, at_least
from benchmarks.benches.scripted_worker import AHEAD, VOCAB, ScriptedWorker
from benchmarks.questions.sources import load_sources
from cluster.config.loading import load_config
from cluster.config.settings import Config
from cluster.episodes.candidates import trained_cards
from cluster.episodes.judging import judge_all
from cluster.episodes.source import QuestionSource
from cluster.session.ray_session import ray_session
from cluster.training.batch import admit
from cluster.training.step_metrics import batch_metrics
from cluster.training.windows import Windows
from cluster.workers.fleet import Fleet
from learner.batching import packing, plan_steps
from learner.losses.bad_batches import bad_input
from learner.losses.credit import credited_samples
from rewards.presets import Judge

TARGET_PER_S, FLAT = 1500.0, (0.8, 1.2)
GROUPS, GROUP_SIZE, RANKS = 256, 8, 2
TIMEOUT_S = 120.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    workers: tuple[int, ...] = (8, 64, 256)
    processes: int = 8
    groups: int = GROUPS  # of a step
    steps: int = 4  # of a repetition, after one that warms up
    repetitions: int = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """What a repetition came to."""

    per_s: float  # trajectories
    driver_us: float  # the driver's processor time, microseconds per trajectory


def run() -> list[Figure]:
    """Measure with 8, 64 and 256 workers; about two minutes."""
    with ray_session(None):
        return judge(measure(Size()))


def measure(size: Size) -> dict[int, list[Pace]]:
    """The repetitions of each number of workers, on a running Ray."""
    actor = ray.remote(ScriptedWorker).options(num_cpus=0, max_concurrency=4096)
    actors = [actor.remote(index) for index in range(size.processes)]
    fleets = {workers: start_fleet(lambda index: actors[index % len(actors)], workers) for workers in size.workers}
    try:
        found: dict[int, list[Pace]] = {workers: [] for workers in fleets}
        for _ in range(size.repetitions):
            for workers, fleet in fleets.items():
                found[workers].append(each := pace(fleet, size))
                logger.info("%d workers: %.0f trajectories/s, %.0f us of the driver", workers, *astuple(each))
        return found
    finally:
        for each_actor in actors:
            ray.kill(each_actor)


def start_fleet(hire: Any, workers: int) -> Fleet:
    """A fleet whose workers have started; there are no weights to give them."""

    def admit_started() -> None:
        for worker in fleet.started():
            worker.ready = True

    fleet = Fleet(
        hire,
        workers=workers,
        max_restarts=0,
        start_timeout_s=TIMEOUT_S,
        answer_timeout_s=TIMEOUT_S,
        admit=admit_started,
    )
    fleet.wait_started(workers)
    admit_started()
    return fleet


def pace(fleet: Fleet, size: Size) -> Pace:
    """Take steps as a run does, windows ahead and all."""
    steps = Steps(settings(size.groups), fleet)
    steps.take()
    began, cpu = time.perf_counter(), time.process_time()
    count = sum(steps.take() for _ in range(size.steps))
    found = Pace(count / (time.perf_counter() - began), 1e6 * (time.process_time() - cpu) / count)
    steps.finish()
    return found


def settings(groups: int) -> Config:
    """The quickstart's, with batches that give each of many workers a group."""
    return load_config(
        "quickstart",
        [
            f"run.groups_per_step={groups}",
            f"run.group_size={GROUP_SIZE}",
            f"run.max_staleness={AHEAD}",
            f"learner.ranks={RANKS}",
        ],
    )


class Steps:
    """The steps of a run, without its learner."""

    def __init__(self, config: Config, fleet: Fleet) -> None:
        questions = load_sources(config.data.train, two_hop_share=config.data.two_hop_share)
        cards = trained_cards(config)
        self._config = config
        self._windows = Windows(config, QuestionSource(questions, config.run.seed), cards, fleet)
        self._judge = Judge(config.rewards)
        self._step = 0

    def take(self) -> int:
        """Play, judge, admit and pack a batch; returns its trajectories.

        Raises:
            RuntimeError: some of them were lost on the way.
        """
        self._step += 1
        began, run, learner = time.perf_counter(), self._config.run, self._config.learner
        self._windows.issue_up_to(self._step + run.max_staleness)
        judged = judge_all(self._windows.gather(self._step), self._judge)
        batch = admit(judged, version=self._step - 1, max_staleness=run.max_staleness)
        shares = self._plan(batch)
        packing(shares, learner.micro_batch_tokens)
        self._windows.done(self._step, self._step)
        batch_metrics(judged, time.perf_counter() - began)
        packed = sum(len(micro) for rank in shares for share in rank for micro in share.micro_batches)
        wanted = run.groups_per_step * run.group_size * learner.ppo_epochs
        if packed != wanted:
            raise RuntimeError(f"step {self._step} packed {packed} trajectories, not {wanted}")
        return len(batch)

    def _plan(self, batch: list[Any]) -> list[list[Any]]:
        """What `LearnerGang.train_step` does with a batch before the ranks get it."""
        learner = self._config.learner
        if (found := bad_input(batch)) is not None:
            raise RuntimeError(f"the scripts are wrong: {found}")
        samples, _ = credited_samples(batch, learner, {})
        return plan_steps(
            samples,
            ranks=learner.ranks,
            ppo_epochs=learner.ppo_epochs,
            minibatches=learner.minibatches,
            micro_batch_tokens=learner.micro_batch_tokens,
            logit_chunk_tokens=learner.logit_chunk(VOCAB),
            seed=(learner.seed, self._step),
        )

    def finish(self) -> None:
        """Wait for what was played ahead."""
        self._windows.gather(self._step + 1)


def judge(found: dict[int, list[Pace]]) -> list[Figure]:
    """The figures; those with targets are the largest fleet's."""
    fewest, most = min(found), max(found)
    rows = []
    for workers, paces in found.items():
        rates, costs = [p.per_s for p in paces], [p.driver_us for p in paces]
        name = f"{workers} workers"
        if workers == most:
            rows.append(at_least(name, rates, "trajectories/s", TARGET_PER_S))
        else:
            rows.append(_plain(name, rates, "trajectories/s"))
        rows.append(_plain(f"{name}: the driver's processor time", costs, "us/trajectory"))
    ratio = rows[-1].value / next(row.value for row in rows if row.unit == "us/trajectory")
    low, high = FLAT
    flat = low <= ratio <= high
    return [*rows, Figure(f"that time, {most} workers over {fewest}", ratio, "ratio", f"{low} - {high}", flat)]


def _plain(name: str, values: list[float], unit: str) -> Figure:
    return Figure(name, statistics.median(values), unit, "", None, (min(values), max(values)))
