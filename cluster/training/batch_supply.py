"""The supply: what a step learns from, gathered from its window, judged, admitted and refilled."""

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
        self.spent_cap: str | None = None  # why no more money may be spent

    def batch(self, step: int) -> tuple[list[Trajectory], list[Trajectory], dict[str, float]]:
        """What was played for a step, judged; what of it is to be learnt from; and the share of groups with signal.

        Where groups without signal are dropped, further questions take their places, `run.max_refills` times at most.

        Raises:
            BudgetSpent: a cap of the run or day left nothing.
            RolloutError: failed calls left nothing.
            CrewError: no worker is left to play, or none in time.
        """
        run, learner = self._run, self._learner
        judged = judge_all(self._windows.gather(step), self._judge)
        self.spent_cap = spent_cap(judged)  # what was paid for is still learnt from
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
        """What of a window is learnt from; nothing where the caps of a step or a provider left nothing of it."""
        try:
            return admit(judged, **self._admission())
        except RolloutError:
            if self.spent_cap:
                raise BudgetSpent(self.spent_cap) from None
            if not refused_for_caps(judged):
                raise
            logger.warning("nothing of the step is learnt from: %s", refused_for_caps(judged))
            return []

    def _admission(self) -> dict[str, int]:
        """What a group must be to be learnt from."""
        return {
            "version": self._crew.version,
            "max_staleness": self._run.max_staleness,
            "fewest": self._learner.fewest_in_group,
        }
