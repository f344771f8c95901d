"""The run: its steps in order, and how it goes on after the learner lost a rank."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.episodes.trajectory import Trajectory
from actors.questions import Question
from benchmarks.evaluation.means import EvaluationError
from cluster.config.settings import Config
from cluster.episodes.candidates import Candidates
from cluster.episodes.judging import BudgetSpent
from cluster.runs.clock import Clock
from cluster.runs.files import RunFolderError
from cluster.runs.manifest import STATE, Manifest
from cluster.runs.metrics import from_learner
from cluster.session.errors import CrewError
from cluster.tracking.run_log import RunLog
from cluster.training.batch import RolloutError
from cluster.training.batch_supply import Supply
from cluster.training.checkpoints import Checkpoints, newest_manifest
from cluster.training.evaluations import Evaluations, is_due
from cluster.training.idleness import advice
from cluster.training.run_state import RunState
from cluster.training.step_metrics import batch_metrics, pool_metrics, staleness_metrics
from cluster.training.step_watch import StepWatch
from cluster.training.summary import summarise_run
from cluster.training.windows import Windows
from cluster.workers.run_actors import Crew, SyncError
from learner.gang import LearnerError, RankLost
from learner.losses.bad_batches import NonFiniteError

logger = logging.getLogger(__name__)

# Errors that end a run although its learner works: the newest weights are saved first.
_SAVED_AFTER = (
    KeyboardInterrupt, RolloutError, EvaluationError, CrewError, SyncError, NonFiniteError, RunFolderError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunParts:
    """The parts of a run, built and started by `cluster.training.loop`."""

    crew: Crew
    candidates: Candidates
    windows: Windows
    supply: Supply
    evaluations: Evaluations
    state: RunState
    checkpoints: Checkpoints
    log: RunLog
    watch: StepWatch
    clock: Clock


@dataclass(slots=True)
class _Step:
    """A step under way, and its row of metrics."""

    number: int
    began: float
    judged: list[Trajectory]
    batch: list[Trajectory]
    row: dict[str, float]
    learn_s: float = 0.0


class Run:
    """A run under way. Its step is the version of the policy in the engines; during a sync the learner is one ahead."""

    def __init__(self, config: Config, parts: RunParts, heldout: list[Question]) -> None:
        self._config = config
        self._heldout = heldout
        self._crew = parts.crew
        self._candidates = parts.candidates
        self._windows = parts.windows
        self._supply = parts.supply
        self._evaluations = parts.evaluations
        self._state = parts.state
        self._checkpoints = parts.checkpoints
        self._log = parts.log
        self._watch = parts.watch
        self._clock = parts.clock
        self._unfinished_row: dict[str, float] = {}  # the metrics so far of the step under way

    @property
    def step(self) -> int:
        """The last step whose weights the engines have."""
        return self._crew.version

    def go_on(self, checkpoint: Path, manifest: Manifest) -> None:
        """Restore the learner and everything else from a checkpoint of this run.

        Raises:
            LearnerError: the checkpoint is of another model.
        """
        self._crew.gang.restart_from(checkpoint / STATE)  # a rank may be lost while it loads
        try:
            self._crew.gang.load_state(checkpoint / STATE)
            self._crew.sync(manifest.step)
            self._go_back((checkpoint, manifest))
        except RankLost as lost:
            self._restart_learner(lost)

    def all_the_way(self) -> dict[str, Any]:
        """Evaluate, train every step, evaluate again; return the summary."""
        try:
            while True:
                try:
                    self._train()
                    summary = self._summary()
                    break
                except RankLost as lost:
                    self._restart_learner(lost)
        except BudgetSpent as spent:
            self._save_newest()
            raise BudgetSpent(f"{spent}. {self._log.folder.how_to_go_on()} candidates.pool.cap_…=MORE") from None
        except _SAVED_AFTER:
            try:
                self._save_newest()
            except (CrewError, LearnerError, RunFolderError) as error:  # the first error is the one to raise
                logger.warning("the steps since the last checkpoint can't be saved: %s", error)
            raise
        self._log.plot()
        return summary

    def _train(self) -> None:
        """Take the steps that are left, evaluate before and after them, and write the last checkpoint."""
        if self.step == 0 and "before" not in self._state.facts:
            row = self._evaluations.before()
            self._log.record(0, row | pool_metrics(self._crew.pool.stats()))
        while self.step < self._config.run.steps:
            self._take_step(self.step + 1)
            if self._supply.spent_cap:
                raise BudgetSpent(self._supply.spent_cap)
        self._evaluations.after(self.step)
        self._checkpoints.write(self.step)

    def _take_step(self, number: int) -> None:
        step = self._play(number)
        self._learn(step)
        self._sync(step)
        self._checkpoint(step)
        self._measure(step)
        self._evaluate(step)

    def _play(self, number: int) -> _Step:
        """Have a batch played and judged. Issue later windows as far ahead as staleness allows."""
        run, began = self._config.run, time.monotonic()
        self._watch.begin(number)
        self._log.phase(number, "roll out")
        with self._clock("rollout") as rolled:
            self._windows.issue_up_to(min(number + run.max_staleness, run.steps))
            judged, batch, kept = self._supply.batch(number)
        row = self._unfinished_row = batch_metrics(judged, rolled.seconds) | from_learner(kept)
        self._log.show(number, "train", judged[: run.sample_trajectories])
        self._state.remember(number)
        row |= self._checkpoints.finish_or_miss()
        return _Step(number, began, judged, batch, row)

    def _learn(self, step: _Step) -> None:
        """Train on the batch; skip it if it is empty."""
        self._log.phase(step.number, "learn")
        with self._clock("learn") as learning:
            learnt: dict[str, float] = {}
            if step.batch:
                learnt = self._crew.gang.train_step(step.batch)
            else:
                self._crew.gang.skip_batch()
        step.learn_s = learning.seconds
        step.row |= from_learner(learnt)
        if "ratio_max_deviation" in learnt:  # a skipped batch has none
            self._state.facts.setdefault("first_step_ratio_deviation", learnt["ratio_max_deviation"])

    def _sync(self, step: _Step) -> None:
        """Put the new weights into the engines."""
        self._log.phase(step.number, "sync")
        with self._clock("sync") as synced:
            step.row["sync/probe_max_diff"] = self._crew.sync(step.number)
        step.row["time/sync_s"] = synced.seconds
        self._windows.done(step.number, self._checkpoints.saved)
        self._state.forget_before(step.number)

    def _checkpoint(self, step: _Step) -> None:
        """Begin a checkpoint where one is due."""
        if step.number == self._config.run.steps or is_due(step.number, self._config.run.checkpoint_every):
            self._checkpoints.begin_or_miss(step.number)

    def _measure(self, step: _Step) -> None:
        """Complete the step's row of metrics, and say which setting to change if one side of the run starves."""
        staleness, step_s = self._config.run.max_staleness, time.monotonic() - step.began
        step.row |= {
            "policy/version": self._crew.version,
            **staleness_metrics(step.judged, step.batch, version=step.number - 1, max_staleness=staleness),
            "rollout/worker_restarts": self._crew.fleet.restarts,
            "time/step_s": step_s,
            "time/elapsed_s": self._clock.elapsed_s,
            **self._watch.end(learn_s=step.learn_s, step_s=step_s),
        }
        if said := advice(step.row, self._config):
            self._log.announce_once(said.partition(": ")[2], f"advice: {said}")

    def _evaluate(self, step: _Step) -> None:
        """Evaluate if it is due. Write the step's row even if the evaluation fails."""
        try:
            step.row |= self._evaluations.beside(step.number)
        finally:
            self._log.record(step.number, step.row | pool_metrics(self._crew.pool.stats()))

    def _save_newest(self) -> None:
        """Before the run ends by an error: write a checkpoint of the newest step, unless there is one."""
        self._checkpoints.finish_or_miss()
        newest = self._crew.gang.batches_trained()  # the learner may be one step ahead of the engines
        if newest > 0:
            if newest > self._log.recorded:
                self._log.record(newest, self._unfinished_row)
            self._checkpoints.write(newest)

    def _restart_learner(self, lost: RankLost) -> None:
        """Restart the learner from the newest checkpoint, and set everything else back to that step.

        Episodes played since then are trained on again, and the engines play on meanwhile.
        """
        logger.warning("the learner lost a rank, and is restarted from the newest checkpoint: %s", lost)
        self._log.phase(self.step, "restart the learner")
        self._checkpoints.abandon()
        found = newest_manifest(self._log.folder)
        batches = None
        while batches is None:
            try:
                batches = self._crew.restart_gang()
            except RankLost as again:  # until the budget of restarts is spent
                logger.warning("the learner lost a rank again during its restart: %s", again)
        self._go_back(found)
        self._log.announce(f"the learner lost a rank; it goes on from step {batches}")

    def _go_back(self, found: tuple[Path, Manifest] | None) -> None:
        """Set everything but learner and engines back to a checkpoint, or with None to the beginning."""
        self._state.go_back(found)
        at_once = found is None and "before" not in self._state.facts  # the row of step 0 will be written again
        self._log.recorded = -1 if at_once else self.step
        self._log.folder.cut_after(self._log.recorded)

    def _summary(self) -> dict[str, Any]:
        """The result of the run, the baselines to compare it with, and its costs."""
        if self._heldout and self._candidates.unseen:
            self._evaluations.unseen(self.step)
        return summarise_run(
            self._config,
            self._state.facts,
            self._heldout,
            clock=self._clock,
            usd_total=sum(self._crew.pool.spent_usd().values()),
            probe_max=self._crew.probe_max,
        )
