"""The evaluator: asks the policy all held-out questions at once, and averages over the episodes."""

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
class RunningEvaluation:
    """An evaluation under way; `version` is that of the policy at its start."""

    version: int
    unseen: bool
    plays: list[Play]


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The numbers of a finished evaluation, and its judged episodes."""

    evaluation: Evaluation
    judged: list[Trajectory]
    row: dict[str, float]  # under the names of `cluster.runs.metrics`
    alarm: str | None  # says how a trained policy has stopped routing; None if it routes


class Evaluator:
    """Evaluates on the engines of training. If batches are played ahead, training goes on meanwhile."""

    def __init__(
        self, config: Config, crew: Crew, candidates: Candidates, heldout: list[Question], judge: Judge
    ) -> None:
        """`judge` is training's. Each evaluation gets a judge of its own, with the same settings."""
        self._config = config
        self._crew = crew
        self._candidates = candidates
        self._heldout = heldout
        self._settings = judge.settings
        self._constants: dict[bool, Constant | None] = {}  # best constant policy, by whether candidates are unseen

    @property
    def has_questions(self) -> bool:
        """Whether there are held-out questions."""
        return bool(self._heldout)

    def begin(self, *, unseen: bool = False) -> RunningEvaluation:
        """Begin an episode of every held-out question, with the candidates of training or with the unseen ones."""
        cards = self._candidates.unseen_menu if unseen else self._candidates.cards
        version = self._crew.version
        requests = evaluation_requests(self._config, version, self._heldout, cards, "unseen" if unseen else "seen")
        return RunningEvaluation(version, unseen, self._crew.fleet.submit([[request] for request in requests]))

    def forget(self, running: RunningEvaluation) -> None:
        """Cancel an evaluation that nobody waits for any more."""
        self._crew.fleet.forget(running.plays)

    def is_done(self, running: RunningEvaluation) -> bool:
        """Whether all episodes have ended; does not wait."""
        return all(self._crew.fleet.peek(play) is not None for play in running.plays)

    def finish(self, running: RunningEvaluation) -> EvaluationResult:
        """Wait for the episodes and sum them up.

        Raises:
            CrewError: the workers could not play the episodes, or not in time.
            BudgetSpent: a cap of the run or day refused some of their calls.
            EvaluationError: all episodes are void.
        """
        played = self._crew.fleet.collect(running.plays, self._config.run.rollout_timeout_s, "run.rollout_timeout_s")
        trajectories = [trajectory for group in played for trajectory in group]
        if cap := spent_cap(trajectories):
            raise BudgetSpent(cap)
        judged = judge_all(trajectories, Judge(self._settings))
        found = evaluate(judged)
        newest = max((int(t.versions.max(initial=running.version)) for t in judged), default=running.version)
        row = {f"eval/{name}": value for name, value in found.as_dict().items() if isinstance(value, float)}
        row["eval/void_share"] = found.void / (found.void + found.questions)
        row |= {"eval/version": running.version, "eval/newest_version": newest}
        row |= {f"eval/call_share/{name}": share for name, share in found.call_share.items()}
        return EvaluationResult(found, judged, row, self._alarm(running, found))

    def _alarm(self, running: RunningEvaluation, found: Evaluation) -> str | None:
        """The alarm of `benchmarks.evaluation.collapse`; None before training, when no routing can be lost."""
        if running.version == 0:
            return None
        cards = self._candidates.unseen_menu if running.unseen else self._candidates.cards
        if running.unseen not in self._constants:
            cohort: Cohort = "unseen" if running.unseen else "seen"
            self._constants[running.unseen] = best_constant(
                self._heldout, cards, cohort=cohort, seed=self._config.run.seed
            )
        return collapse_alarm(found, self._constants[running.unseen], candidates=len(cards))
