"""The evaluations of a run: when held-out questions are asked, and which results the summary keeps."""

from __future__ import annotations

import logging
from typing import Any

from cluster.config.settings import RunSettings
from cluster.runs.clock import Clock
from cluster.tracking.run_log import RunLog
from cluster.training.evaluator import Evaluator, RunningEvaluation

logger = logging.getLogger(__name__)


class Evaluations:
    """Schedules evaluations before, beside and after training, and adds each result to `facts` of the summary."""

    def __init__(
        self, settings: RunSettings, evaluator: Evaluator, log: RunLog, clock: Clock, facts: dict[str, Any]
    ) -> None:
        self._settings = settings
        self._evaluator = evaluator
        self._log = log
        self._clock = clock
        self._facts = facts
        self._running: RunningEvaluation | None = None  # beside training

    @property
    def one_is_running(self) -> bool:
        """Whether an evaluation runs beside training."""
        return self._running is not None

    def before(self) -> dict[str, float]:
        """Evaluate the policy that training starts from, and wait; return the metrics."""
        row = self._evaluate(0, "before", "evaluate before training")
        if "before" in self._facts:
            self._facts |= {"after": self._facts["before"], "after_step": 0}
        return row

    def after(self, step: int) -> None:
        """Evaluate the policy of the last step and wait, unless the result is known."""
        if self._facts.get("after_step") != step:
            self._evaluate(step, "after", "evaluate")

    def unseen(self, step: int) -> None:
        """Evaluate with the candidates that training never saw, and wait."""
        self._evaluate(step, "after_unseen", "evaluate with unseen candidates", unseen=True)

    def beside(self, step: int) -> dict[str, float]:
        """Evaluate every `eval_every` steps. If the engines would be idle, wait for the result; otherwise evaluate in
        the background, and return the metrics with the step during which the evaluation finishes.

        A background evaluation is finished before the last step: that step's row is reserved for the final one.
        """
        row: dict[str, float] = {}
        due, left = is_due(step, self._settings.eval_every), self._settings.steps - step
        if self._running is not None and (due or left <= 1 or self._evaluator.is_done(self._running)):
            running, self._running = self._running, None
            with self._clock("evaluate"):
                row = self._finish(running, "after")
        if left == 0 or (due and (self._settings.max_staleness == 0 or (left == 1 and not row))):
            row |= self._evaluate(step, "after", "evaluate")
        elif due and self._evaluator.has_questions:
            self._running = self._evaluator.begin()
        return row

    def forget(self) -> None:
        """Break off the evaluation beside training, if there is one."""
        running, self._running = self._running, None
        if running is not None:
            self._evaluator.forget(running)

    def begin_beside(self) -> None:
        """Begin an evaluation beside training, as at the time of a checkpoint that the run goes back to."""
        self._running = self._evaluator.begin()

    def _evaluate(self, step: int, name: str, phase: str, *, unseen: bool = False) -> dict[str, float]:
        if not self._evaluator.has_questions:
            return {}
        self._log.phase(step, phase)
        with self._clock("evaluate"):
            return self._finish(self._evaluator.begin(unseen=unseen), name)

    def _finish(self, running: RunningEvaluation, name: str) -> dict[str, float]:
        found, version = self._evaluator.finish(running), running.version
        shown = found.judged[: self._settings.sample_trajectories]
        self._log.show(version, "eval-unseen" if running.unseen else "eval", shown)
        if found.alarm:
            self._log.announce(f"alarm, version {version}: {found.alarm}")
            logger.warning("version %d: %s", version, found.alarm)
        result = found.evaluation.as_dict()
        # The metrics may hold no row for an evaluation of the last step but one, so the log keeps its result.
        logger.info("evaluation of version %d: %s", version, result)
        self._facts |= {name: result, f"{name}_step": version}
        return found.row


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every `every` steps happens after `step`; 0 means never."""
    return every > 0 and step % every == 0
