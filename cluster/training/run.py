"""The run: its steps one after the other, what is kept of them, and how it goes on after a loss."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.episodes.trajectory import Trajectory
from actors.questions import Question
from benchmarks.evaluation.means import EvaluationError
from cluster.config.settings import Config
from cluster.episodes.candidates import Candidates
from cluster.episodes.judging import BudgetSpent
from cluster.episodes.source import QuestionSource
from cluster.runs.clock import Clock
from cluster.runs.files import RunFolderError
from cluster.runs.folder import RunFolder
from cluster.runs.manifest import STATE, Manifest, fingerprint, read_groups
from cluster.runs.metrics import from_learner
from cluster.runs.mirror import Mirror
from cluster.session.errors import CrewError
from cluster.session.watchdog import Watchdog
from cluster.tracking.progress_plot import plot_run
from cluster.tracking.terminal import Terminal
from cluster.tracking.wandb_run import Tracker
from cluster.training.batch import RolloutError
from cluster.training.batch_supply import Supply
from cluster.training.checkpoints import CheckpointWriter, newest_manifest
from cluster.training.evaluator import Asked, Evaluator
from cluster.training.idleness import advice
from cluster.training.step_metrics import batch_metrics, pool_metrics, staleness_metrics
from cluster.training.step_watch import StepWatch
from cluster.training.summary import summarise_run
from cluster.training.windows import Windows
from cluster.workers.run_actors import Crew, SyncError
from learner.gang import LearnerError, RankLost
from learner.losses.bad_batches import NonFiniteError
from rewards.presets import Judge

logger = logging.getLogger(__name__)

# What ends a run while its learner is sound, so that what was learnt is worth saving.
_SAVED_AFTER = (
    KeyboardInterrupt, RolloutError, EvaluationError, CrewError, SyncError, NonFiniteError, RunFolderError,
)  # fmt: skip


class Run:
    """A run under way. `step` is the last one that was learnt from."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        tracker: Tracker,
        terminal: Terminal,
        crew: Crew,
        candidates: Candidates,
        clock: Clock,
        source: QuestionSource,
        heldout: list[Question],
        mirror: Mirror | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.tracker = tracker
        self.terminal = terminal
        self.crew = crew
        self.candidates = candidates
        self.clock = clock
        self.source = source
        self.heldout = heldout
        self.judge = Judge(candidates.price_rewards(config))
        self.windows = Windows(config, source, candidates.cards, crew.fleet)
        self.supply = Supply(config, crew, self.windows, self.judge)
        self.evaluator = Evaluator(config, crew, candidates, heldout, self.judge)
        self._asked: Asked | None = None  # an evaluation under way beside training
        self.watchdog = Watchdog(folder.stalls_path, config.run.stall_s)
        self.watch = StepWatch(config, crew, clock.timeline, folder)
        self.writer = CheckpointWriter(crew.gang, folder, config.run.keep_checkpoints, mirror)
        self.step = 0
        self._advised: set[str] = set()
        self._recorded = -1  # the last step whose row of metrics is written
        self._half_a_row: dict[str, float] = {}  # of the step under way: what its batch came to
        self.facts: dict[str, Any] = {}  # of the summary, known before its end
        self._questions = fingerprint(source.questions)
        self._manifests = {0: self._manifest(0)}  # after the last step and, while it is learnt from, the next

    def go_on(self, checkpoint: Path, manifest: Manifest) -> None:
        """Take up the learner and everything else from a checkpoint of this run.

        Raises:
            LearnerError: the checkpoint is of another model.
        """
        self.crew.gang.newest_state = checkpoint / STATE
        try:
            self.crew.gang.load_state(checkpoint / STATE)
            self.crew.sync(manifest.step)
            self._take_up(checkpoint, manifest)
        except RankLost as lost:
            self._step_back(lost)

    def all_the_way(self) -> dict[str, Any]:
        """Evaluate, train every step, evaluate again; return the summary."""
        try:
            while True:
                try:
                    self._train()
                    summary = self._summary()
                    break
                except RankLost as lost:
                    self._step_back(lost)
        except BudgetSpent as spent:
            self._save_what_was_learnt()
            raise BudgetSpent(f"{spent}. {self.folder.how_to_go_on()} candidates.pool.cap_…=MORE") from None
        except _SAVED_AFTER:
            try:
                self._save_what_was_learnt()
            except (CrewError, LearnerError, RunFolderError) as error:  # what is raised is what came first
                logger.warning("what was learnt since the last checkpoint can't be saved: %s", error)
            raise
        self._plot()
        return summary

    def _train(self) -> None:
        """What is left to do of the run, up to its last checkpoint."""
        if self.step == 0 and "before" not in self.facts:
            row = self._evaluate("before", "evaluate before training")
            self._record(0, row | pool_metrics(self.crew.pool.stats()))
        while self.step < self.config.run.steps:
            self._take_step(self.step + 1)
            if self.supply.spent_cap:
                raise BudgetSpent(self.supply.spent_cap)
        if self.facts.get("after_step") != self.step:
            self._evaluate("after", "evaluate")
        self._checkpoint(self.step)
        self.writer.finish()

    def _take_step(self, step: int) -> None:
        """Play and learn from a batch, put what was learnt into the engines, and write the numbers down."""
        config, crew, began = self.config, self.crew, time.monotonic()
        self.watch.begin(step)
        self._phase(step, "roll out")
        with self.clock("rollout") as rolled:
            self.windows.issue_up_to(min(step + config.run.max_staleness, config.run.steps))
            judged, batch, kept = self.supply.batch(step)
        row = self._half_a_row = batch_metrics(judged, rolled.seconds) | from_learner(kept)
        self._show(step, "train", judged)
        self._manifests[step] = self._manifest(step)
        row |= self._finish_checkpoint()
        self._phase(step, "learn")
        with self.clock("learn") as learning:
            learnt = self._learn(batch)
        self._phase(step, "sync")
        with self.clock("sync") as synced:
            probe = crew.sync(step)
        self.step = step
        self.windows.done(step, self.writer.saved)
        self._manifests.pop(step - 1, None)
        if "ratio_max_deviation" in learnt:  # a batch that was skipped has none
            self.facts.setdefault("first_step_ratio_deviation", learnt["ratio_max_deviation"])
        if step == config.run.steps or _due(step, config.run.checkpoint_every):
            with self._missed_at_worst():
                self._checkpoint(step)
        row |= {
            **from_learner(learnt),
            "sync/probe_max_diff": probe,
            "policy/version": crew.version,
            **staleness_metrics(judged, batch, version=step - 1, max_staleness=config.run.max_staleness),
            "rollout/worker_restarts": crew.fleet.restarts,
            "time/sync_s": synced.seconds,
            "time/step_s": (step_s := time.monotonic() - began),
            "time/elapsed_s": self.clock.elapsed_s,
            **self.watch.end(learn_s=learning.seconds, step_s=step_s),
        }
        self._advise(row)
        try:
            row |= self._evaluate_beside(step)
        finally:
            self._record(step, row | pool_metrics(crew.pool.stats()))

    def _learn(self, batch: list[Trajectory]) -> dict[str, float]:
        if batch:
            return self.crew.gang.train_step(batch)
        self.crew.gang.skip_batch()
        return {}

    def _evaluate(self, name: str, phase: str, *, unseen: bool = False) -> dict[str, float]:
        """Ask the held-out questions and wait; what comes of it is the summary's `name`, and the row returned."""
        if not self.heldout:
            return {}
        self._phase(self.step, phase)
        with self.clock("evaluate"):
            return self._take_evaluation(self.evaluator.begin(unseen=unseen), name)

    def _evaluate_beside(self, step: int) -> dict[str, float]:
        """Evaluate as often as the run is to: at once where the engines would wait anyway, else while training goes on;
        the row of metrics is then that of the step at whose end the last episode had ended."""
        row: dict[str, float] = {}
        due, left = _due(step, self.config.run.eval_every), self.config.run.steps - step
        # It is waited for before the last step, whose row is that of the evaluation at the end.
        if self._asked is not None and (due or left <= 1 or self.evaluator.is_done(self._asked)):
            asked, self._asked = self._asked, None
            with self.clock("evaluate"):
                row = self._take_evaluation(asked, "after")
        if left == 0 or (due and (self.config.run.max_staleness == 0 or (left == 1 and not row))):
            row |= self._evaluate("after", "evaluate")
        elif due and self.heldout:
            self._asked = self.evaluator.begin()
        return row

    def _take_evaluation(self, asked: Asked, name: str) -> dict[str, float]:
        found = self.evaluator.finish(asked)
        self._show(asked.version, "eval-unseen" if asked.unseen else "eval", found.judged)
        if found.alarm:
            self.terminal.announce(f"alarm, version {asked.version}: {found.alarm}")
            logger.warning("version %d: %s", asked.version, found.alarm)
        result = found.evaluation.as_dict()
        # One of the last step but one may have no row of its own in the metrics.
        logger.info("evaluation of version %d: %s", asked.version, result)
        self.facts |= {name: result, f"{name}_step": asked.version}
        if self.step == 0:
            self.facts |= {"after": result, "after_step": 0}
        return found.row

    def _checkpoint(self, step: int) -> None:
        """Have the state after a step written, unless it is there; the engines play on meanwhile."""
        self.writer.finish()
        if not self.folder.checkpoint(step).exists():
            manifest = replace(
                self._manifests[step],
                spent_usd=self.crew.pool.spent_usd(),
                elapsed_s=self.clock.elapsed_s,
                summary={
                    **self.facts,
                    "probe_max_diff": self.crew.probe_max,
                    "evaluating": self._asked is not None,
                },
            )
            self.writer.begin(manifest, self.windows.finished_after(step))

    def _finish_checkpoint(self) -> dict[str, float]:
        """Wait for the checkpoint under way, if any."""
        written = None
        with self._missed_at_worst():
            written = self.writer.finish()
        if written is None:
            return {}
        self.clock.timeline.add("checkpoint", "checkpoints", written)
        return {"time/checkpoint_s": written}

    @contextmanager
    def _missed_at_worst(self) -> Iterator[None]:
        """A checkpoint that can't be written is missed: the next may be, and what was saved before is still there."""
        try:
            yield
        except RankLost:
            raise
        except (LearnerError, RunFolderError) as error:
            logger.warning("a checkpoint was not written, and training goes on: %s", error)

    def _save_what_was_learnt(self) -> None:
        """On the way out: a checkpoint of the newest step, unless there is one."""
        self._finish_checkpoint()
        step = self.crew.gang.batches_trained()  # may be one more than the engines have
        if step > 0:
            if step > self._recorded:
                self._record(step, self._half_a_row)
            self._checkpoint(step)
            self.writer.finish()

    def _show(self, step: int, label: str, judged: list[Trajectory]) -> None:
        """Write some trajectories out for people; training does not end for want of them."""
        try:
            self.folder.write_trajectories(step, label, judged[: self.config.run.sample_trajectories])
        except RunFolderError as error:
            logger.warning("the step's trajectories are not shown: %s", error)

    def _plot(self) -> None:
        try:
            plot_run(self.folder.read_metrics(), self.folder.plot_file)
        except OSError as error:
            logger.warning("%s was not drawn: %s", self.folder.plot_file, error)

    def _phase(self, step: int, name: str) -> None:
        """Say on the terminal and in the log what the run does now."""
        self.terminal.phase(name)
        self.watchdog.phase(f"step {step}: {name}")
        logger.info("step %d: %s", step, name)

    def _manifest(self, step: int) -> Manifest:
        """Where everything but the learner stands once it has learnt from `step`."""
        return Manifest(
            step=step,
            cursor=self.source.cursor,
            windows=self.windows.begins_after(step),
            questions=self._questions,
            judge=self.judge.state(),
            spent_usd={},
            elapsed_s=0.0,
        )

    def _step_back(self, lost: RankLost) -> None:
        """The learner lost a rank: start it anew from the newest checkpoint, and the rest from where that was. What was
        played since is learnt from once more, and the engines play on meanwhile."""
        logger.warning("the learner lost a rank, and starts anew from the newest checkpoint: %s", lost)
        self._phase(self.step, "restart the learner")
        self.writer.abandon()
        found = newest_manifest(self.folder)
        batches = None
        while batches is None:
            try:
                batches = self.crew.restart_gang()
            except RankLost as again:  # until the budget of restarts is spent
                logger.warning("the learner lost a rank as it started anew: %s", again)
        if found is None:
            self._take_up(None, Manifest(0, 0, {}, self._questions, Judge(self.judge.settings).state(), {}, 0.0))
        else:
            self._take_up(*found)
        self.terminal.announce(f"the learner lost a rank; it goes on from step {batches}")

    def _take_up(self, checkpoint: Path | None, manifest: Manifest) -> None:
        """Everything but the learner and the engines as the manifest has it."""
        self.step = self._recorded = manifest.step
        self.source.cursor = manifest.cursor
        self.judge.restore(manifest.judge)
        self.facts = dict(manifest.summary) or self.facts
        self.crew.probe_max = max(self.crew.probe_max, self.facts.get("probe_max_diff", 0.0))
        groups = read_groups(checkpoint) if checkpoint is not None else {}
        if self._asked is not None:
            self.crew.fleet.forget(self._asked.plays)
        self.windows.take_up(manifest.step, manifest.cursor, manifest.windows, groups)
        self._asked = self.evaluator.begin() if self.facts.pop("evaluating", False) else None
        self._manifests = {manifest.step: manifest}
        self.folder.cut_after(manifest.step)

    def _advise(self, row: dict[str, float]) -> None:
        """Say what to change where one side starves; each piece of advice once in a run."""
        if (said := advice(row, self.config)) and (kind := said.partition(": ")[2]) not in self._advised:
            self._advised.add(kind)
            self.terminal.announce(f"advice: {said}")
            logger.info("advice: %s", said)

    def _record(self, step: int, row: dict[str, float]) -> None:
        self.folder.append_metrics({"step": step, **row})
        self._recorded = step
        self.tracker.log(step, row)
        self.terminal.step(step, row)

    def _summary(self) -> dict[str, Any]:
        """What was learnt, what it is to be compared with, and what it took."""
        if self.heldout and self.candidates.unseen:
            self._evaluate("after_unseen", "evaluate with unseen candidates", unseen=True)
        return summarise_run(
            self.config,
            self.facts,
            self.heldout,
            clock=self.clock,
            usd_total=sum(self.crew.pool.spent_usd().values()),
            probe_max=self.crew.probe_max,
        )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
