"""The control bench: the driver's time for a trajectory, from request to learner batch, by the number of workers.

Workers play from scripts (`benchmarks.benches.scripted_worker`). The driver runs the code of a real run: `Windows` and
`Fleet`, the judge, admission, the metrics of a batch, credit and packing. It only sends nothing to learner ranks.

Eight processes stand for all workers, each for up to 32: the fleet treats them as 256 workers, each with its groups and
pings, but the driver has only 8 connections. With a process for each worker, two cores would measure Ray and not the
driver: of 256 such processes only 163 had started after four minutes, and 64 idle ones take half a core.

All numbers of workers get the same batches, in turns, so that only the workers differ. The driver's processor time
is that of all threads of its process.
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
    """How much to measure."""

    workers: tuple[int, ...] = (8, 64, 256)
    processes: int = 8
    groups: int = GROUPS  # in a step
    steps: int = 4  # in a repetition, after a first one to warm up
    repetitions: int = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """The result of a repetition."""

    per_s: float  # trajectories per second
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
    """Measure steps that are taken as in a run, with windows played ahead."""
    steps = Steps(settings(size.groups), fleet)
    steps.take()
    began, cpu = time.perf_counter(), time.process_time()
    count = sum(steps.take() for _ in range(size.steps))
    found = Pace(count / (time.perf_counter() - began), 1e6 * (time.process_time() - cpu) / count)
    steps.finish()
    return found


def settings(groups: int) -> Config:
    """The quickstart's configuration, with batches of so many groups that each of many workers gets one."""
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
            RuntimeError: some trajectories were lost.
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
        """Do with a batch what `LearnerGang.train_step` does before the ranks get it."""
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
        """Wait for the window that was played ahead."""
        self._windows.gather(self._step + 1)


def judge(found: dict[int, list[Pace]]) -> list[Figure]:
    """The figures; only those of the largest fleet have targets."""
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
