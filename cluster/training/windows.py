"""The windows: each step's questions, played as far ahead of the learner as staleness allows, gathered in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from actors.episodes.episode import EpisodeRequest
from actors.episodes.trajectory import Trajectory
from actors.pool.cards import ModelCard
from actors.questions import Question
from cluster.config.settings import Config
from cluster.episodes.judging import spent_cap
from cluster.episodes.requests import training_requests
from cluster.episodes.source import QuestionSource
from cluster.workers.fleet import Fleet
from cluster.workers.play import Play
from rewards.transcript import Verdict

logger = logging.getLogger(__name__)

_REMEMBERED_STEPS = 32  # steps since the newest checkpoint whose plays are kept, for a restart of the learner


@dataclass(slots=True)
class Window:
    """The questions of one step and their groups."""

    begins: int  # cursor of the source before its questions were drawn
    questions: list[Question]
    plays: list[Play] = field(default_factory=list)


class Windows:
    """Step `n` trains on window `n` and waits for all of it: a fast group never replaces a slow one.

    With staleness S the learner at version v has windows v + 1 to v + 1 + S issued, so the oldest token that it ever
    trains on was sampled S versions before (as in AReaL, arXiv 2505.24298, which counts trajectories; here whole
    windows are counted). With S = 0 a window is issued once the learner has trained on the one before.
    """

    def __init__(self, config: Config, source: QuestionSource, cards: Sequence[ModelCard], fleet: Fleet) -> None:
        self._config = config
        self._source = source
        self._cards = cards
        self._fleet = fleet
        self._windows: dict[int, Window] = {}
        self._issued = 0  # the last step whose window was issued
        self._kept: dict[str, list[Trajectory]] = {}  # groups finished before the run was stopped
        self._plays: dict[int, dict[str, Play]] = {}  # by step and group, from the newest checkpoint on

    def take_up(
        self, step: int, cursor: int, begins: Mapping[int, int], groups: Mapping[str, list[Trajectory]]
    ) -> None:
        """Go on after `step` from a manifest: issue its windows again, without their finished groups.

        Episodes played after `step`, or under way, stay valid: replaying them would give the same ones.
        """
        gone = [number for number in self._plays if number <= step or step + 1 not in self._plays]
        self._fleet.forget([play for number in gone for play in self._plays.pop(number).values()])
        self._windows.clear()
        self._kept = {name: group for name, group in groups.items() if not self._was_hopeless(group)}
        self._issued = step
        for later, start in sorted(begins.items()):
            if later > self._config.run.steps:  # the run was made shorter
                cursor = min(cursor, start)
                continue
            self._source.cursor = start
            self._issue(later)
        self._source.cursor = cursor

    def issue_up_to(self, step: int) -> None:
        """Issue the windows up to that of `step` that have not been issued yet."""
        for wanted in range(self._issued + 1, step + 1):
            self._issue(wanted)

    def _issue(self, step: int) -> None:
        """Draw the questions of a step and have them played."""
        self._issued = step
        begins = self._source.cursor
        window = self._windows[step] = Window(begins, self._source.draw(self._config.run.groups_per_step))
        window.plays = self._play(step, window.questions)

    def gather(self, step: int) -> list[Trajectory]:
        """Wait for the window of a step. Ask questions again whose groups were lost to failed calls.

        The trajectories are in the order of the questions, then those of questions asked again; void ones are included.

        Raises:
            CrewError: the workers could not play the episodes, or not in time.
        """
        window = self._windows[step]
        run = self._config.run
        groups = self._fleet.collect(window.plays, run.rollout_timeout_s, "run.rollout_timeout_s")
        found = [trajectory for group in groups for trajectory in group]
        asked = list(zip(window.questions, groups, strict=True))
        for attempt in range(1, run.group_retries + 1):
            lost = [question for question, group in asked if self._worth_asking_anew(group)]
            if not lost:
                break
            if len(lost) == len(window.questions):
                logger.warning("step %d: failed calls voided all groups; asking again in %g s", step, run.retry_pause_s)
                time.sleep(run.retry_pause_s)
            asked = list(zip(lost, self._play_now(step, lost, attempt), strict=True))
            found += [trajectory for _, group in asked for trajectory in group]
        return found

    def done(self, step: int, saved: int) -> None:
        """Drop the window of a step that was trained on, and plays up to step `saved`, that of the newest checkpoint.

        No run goes back to before its newest checkpoint.
        """
        del self._windows[step]
        for number in [number for number in self._plays if number <= max(saved, step - _REMEMBERED_STEPS)]:
            del self._plays[number]

    def refill(self, step: int, count: int, attempt: int) -> list[Trajectory]:
        """Play groups of further questions for a step, to replace groups without signal.

        Raises:
            CrewError: as `gather`.
        """
        groups = self._play_now(step, self._source.draw(count), self._config.run.group_retries + attempt)
        return [trajectory for group in groups for trajectory in group]

    def begins_after(self, step: int) -> dict[int, int]:
        """The cursor at which each issued window after that of `step` begins, by step."""
        return {later: window.begins for later, window in self._windows.items() if later > step}

    def finished_after(self, step: int) -> dict[str, list[Trajectory]]:
        """The finished groups of windows after that of `step`, by name."""
        plays = [play for later, window in self._windows.items() if later > step for play in window.plays]
        return {
            play.requests[0].group: trajectories
            for play in plays
            if (trajectories := self._fleet.peek(play)) is not None
        }

    def _play(self, step: int, questions: Sequence[Question], attempt: int = 0) -> list[Play]:
        requests = training_requests(self._config, step, questions, self._cards, attempt)
        plays = self._plays.setdefault(step, {})
        names = []
        for name, members in groupby(requests, key=lambda request: request.group):
            names.append(name)
            if name not in plays:
                plays[name] = self._kept_or_played(list(members))
        return [plays[name] for name in names]

    def _kept_or_played(self, group: list[EpisodeRequest]) -> Play:
        kept = self._kept.pop(group[0].group, None)
        return Play(group, trajectories=kept) if kept is not None else self._fleet.submit([group])[0]

    def _play_now(self, step: int, questions: Sequence[Question], attempt: int) -> list[list[Trajectory]]:
        plays = self._play(step, questions, attempt)
        return self._fleet.collect(plays, self._config.run.rollout_timeout_s, "run.rollout_timeout_s")

    def _was_hopeless(self, group: Sequence[Trajectory]) -> bool:
        """Whether a cap or a replay left too little of a group, or a cap of the run or day is in its way.

        Since then the user may have raised the cap or changed the ledger's mode, so a resumed run plays it again.
        """
        verdicts = [trajectory.transcript.verdict for trajectory in group]
        return spent_cap(group) is not None or (Verdict.GIVE_UP in verdicts and self._too_few(verdicts))

    def _worth_asking_anew(self, group: Sequence[Trajectory]) -> bool:
        """Whether failed calls left too few members of a group to train on, and asking again may help."""
        verdicts = [trajectory.transcript.verdict for trajectory in group]
        return self._too_few(verdicts) and Verdict.GIVE_UP not in verdicts

    def _too_few(self, verdicts: Sequence[Verdict]) -> bool:
        return verdicts.count(Verdict.KEEP) < self._config.learner.fewest_in_group
