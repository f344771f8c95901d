"""The supply: a step's batch, gathered from its window, judged, admitted and refilled."""

from __future__ import annotations

import logging

from actors.episodes.trajectory import Trajectory
from cluster.config.settings import RunSettings
from cluster.episodes.judging import BudgetSpent, judge_all, refused_for_caps, spent_cap
from cluster.training.batch import RolloutError, admit, whole_groups
from cluster.training.windows import Windows
from cluster.workers.run_actors import Crew
from learner.losses.credit import with_signal
from learner.metrics import KEEP_RATE
from learner.settings import LearnerSettings
from rewards.presets import Judge

logger = logging.getLogger(__name__)


class Supply:
    """Gives the steps of a run their batches."""

    def __init__(self, run: RunSettings, learner: LearnerSettings, crew: Crew, windows: Windows, judge: Judge) -> None:
        self._run = run
        self._learner = learner
        self._crew = crew
        self._windows = windows
        self._judge = judge
        self.spent_cap: str | None = None  # the refusal by a cap that is used up; None while money is left

    def batch(self, step: int) -> tuple[list[Trajectory], list[Trajectory], dict[str, float]]:
        """All judged trajectories of a step; those to train on; and the share of groups with signal, as a metric.

        If groups without signal are dropped, groups of further questions replace them, `run.max_refills` times at
        most; only then is there a metric.

        Raises:
            BudgetSpent: a cap of the run or day refused calls, and no group to train on is left.
            RolloutError: calls failed, and no group to train on is left.
            CrewError: the workers could not play the episodes, or not in time.
        """
        run, learner = self._run, self._learner
        judged = judge_all(self._windows.gather(step), self._judge)
        self.spent_cap = spent_cap(judged)  # episodes that are paid for are still trained on
        batch = self._admit(judged)
        if not learner.drop_groups_without_signal:
            return judged, batch, {}
        batch, dropped = with_signal(batch, learner)
        for refill in range(1, run.max_refills + 1):
            missing = run.groups_per_step - len({t.group for t in batch})
            if missing <= 0 or self.spent_cap:
                break
            more = judge_all(self._windows.refill(step, missing, refill), self._judge)
            self.spent_cap = spent_cap(more)
            found, useless = with_signal(whole_groups(more, **self._admission()), learner)
            judged, batch, dropped = judged + more, batch + found, dropped + useless
        kept = len({t.group for t in batch})
        return judged, batch, {KEEP_RATE: kept / max(kept + dropped, 1)}

    def _admit(self, judged: list[Trajectory]) -> list[Trajectory]:
        """The trajectories to train on; none if the caps of a step or a provider left no group of the window."""
        try:
            return admit(judged, **self._admission())
        except RolloutError:
            if self.spent_cap:
                raise BudgetSpent(self.spent_cap) from None
            if not refused_for_caps(judged):
                raise
            logger.warning("the step trains on nothing: %s", refused_for_caps(judged))
            return []

    def _admission(self) -> dict[str, int]:
        """The conditions for a group to be trained on."""
        return {
            "version": self._crew.version,
            "max_staleness": self._run.max_staleness,
            "fewest": self._learner.fewest_in_group,
        }
