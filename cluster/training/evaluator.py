"""The evaluator: asks the held-out questions of the policy, all at once, and sums up what comes of it."""

from __future__ import annotations

from dataclasses import dataclass

from actors.episodes.trajectory import Trajectory
from actors.questions import Question
from benchmarks.baselines.world_bounds import best_constant
from benchmarks.evaluation.collapse import Constant, collapse_alarm
from benchmarks.evaluation.means import Evaluation, evaluate
from benchmarks.world.experts import Cohort
from cluster.config.settings import Config
from cluster.episodes.candidates import Candidates
from cluster.episodes.judging import BudgetSpent, judge_all, spent_cap
from cluster.episodes.requests import evaluation_requests
from cluster.workers.play import Play
from cluster.workers.run_actors import Crew
from rewards.presets import Judge


@dataclass(frozen=True, slots=True)
class Asked:
    """An evaluation under way: `version` is the policy that it began with."""

    version: int
    unseen: bool
    plays: list[Play]


@dataclass(frozen=True, slots=True)
class Found:
    """What an evaluation came to, and its episodes, judged."""

    evaluation: Evaluation
    judged: list[Trajectory]
    row: dict[str, float]  # under the names of `cluster.runs.metrics`
    alarm: str | None  # what a trained policy has come to if it has ceased to route


class Evaluator:
    """Evaluations share the engines with training. Where batches are played ahead, training goes on meanwhile."""

    def __init__(
        self, config: Config, crew: Crew, candidates: Candidates, heldout: list[Question], judge: Judge
    ) -> None:
        """`judge` is training's; evaluations have one of their own, with its settings."""
        self._config = config
        self._crew = crew
        self._candidates = candidates
        self._heldout = heldout
        self._settings = judge.settings
        self._constants: dict[bool, Constant | None] = {}  # the best constant policy, of unseen candidates or not

    def begin(self, *, unseen: bool = False) -> Asked:
        """Ask every held-out question, of the candidates seen in training or of the unseen ones."""
        cards = self._candidates.unseen_menu if unseen else self._candidates.cards
        version = self._crew.version
        requests = evaluation_requests(self._config, version, self._heldout, cards, "unseen" if unseen else "seen")
        return Asked(version, unseen, self._crew.fleet.submit([[request] for request in requests]))

    def is_done(self, asked: Asked) -> bool:
        """Whether all episodes have ended; does not wait."""
        return all(self._crew.fleet.peek(play) is not None for play in asked.plays)

    def finish(self, asked: Asked) -> Found:
        """Wait for the episodes and sum them up.

        Raises:
            CrewError: the workers could not play them, or not in time.
            BudgetSpent: a cap of the run or day refused some of their calls.
            EvaluationError: all are void.
        """
        played = self._crew.fleet.collect(asked.plays, self._config.run.rollout_timeout_s, "run.rollout_timeout_s")
        trajectories = [trajectory for group in played for trajectory in group]
        if cap := spent_cap(trajectories):
            raise BudgetSpent(cap)
        judged = judge_all(trajectories, Judge(self._settings))
        found = evaluate(judged)
        newest = max((int(t.versions.max(initial=asked.version)) for t in judged), default=asked.version)
        row = {f"eval/{name}": value for name, value in found.as_dict().items() if isinstance(value, float)}
        row["eval/void_share"] = found.void / (found.void + found.questions)
        row |= {"eval/version": asked.version, "eval/newest_version": newest}
        row |= {f"eval/call_share/{name}": share for name, share in found.call_share.items()}
        return Found(found, judged, row, self._alarm(asked, found))

    def _alarm(self, asked: Asked, found: Evaluation) -> str | None:
        """See `benchmarks.evaluation.collapse`. A policy that was not trained yet has nothing to lose."""
        if asked.version == 0:
            return None
        cards = self._candidates.unseen_menu if asked.unseen else self._candidates.cards
        if asked.unseen not in self._constants:
            cohort: Cohort = "unseen" if asked.unseen else "seen"
            self._constants[asked.unseen] = best_constant(
                self._heldout, cards, cohort=cohort, seed=self._config.run.seed
            )
        return collapse_alarm(found, self._constants[asked.unseen], candidates=len(cards))
