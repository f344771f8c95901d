"""The state of a run outside its learner: what a checkpoint keeps of it, and how a run goes back to a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.episodes.trajectory import Trajectory
from cluster.episodes.source import QuestionSource
from cluster.runs.clock import Clock
from cluster.runs.group_file import read_groups
from cluster.runs.manifest import Manifest, fingerprint
from cluster.training.evaluations import Evaluations
from cluster.training.windows import Windows
from cluster.workers.run_actors import Crew
from rewards.presets import Judge


class RunState:
    """Records where questions, windows and judge stand after each step, until the step's checkpoint is written.

    The state after step n is recorded as soon as its batch is judged. When the checkpoint of step n is written, the
    source and the judge may already have moved on to step n + 1.
    """

    def __init__(
        self,
        source: QuestionSource,
        windows: Windows,
        judge: Judge,
        evaluations: Evaluations,
        crew: Crew,
        clock: Clock,
        facts: dict[str, Any],
    ) -> None:
        """`facts` are the entries of the summary that are known before the run ends; other parts add to them."""
        self.facts = facts
        self._source = source
        self._windows = windows
        self._judge = judge
        self._evaluations = evaluations
        self._crew = crew
        self._clock = clock
        self._questions = fingerprint(source.questions)
        self._remembered: dict[int, Manifest] = {}
        self.remember(0)

    def remember(self, step: int) -> None:
        """Record the state after `step`."""
        self._remembered[step] = Manifest(
            step=step,
            cursor=self._source.cursor,
            windows=self._windows.begins_after(step),
            questions=self._questions,
            judge=self._judge.state(),
            spent_usd={},
            elapsed_s=0.0,
        )

    def forget_before(self, step: int) -> None:
        """Drop the records of steps before `step`: no checkpoint of them will be written."""
        for earlier in [number for number in self._remembered if number < step]:
            del self._remembered[earlier]

    def manifest(self, step: int) -> Manifest:
        """The manifest of the checkpoint after `step`, with money, time and facts as they are now."""
        return replace(
            self._remembered[step],
            spent_usd=self._crew.pool.spent_usd(),
            elapsed_s=self._clock.elapsed_s,
            summary={
                **self.facts,
                "probe_max_diff": self._crew.probe_max,
                "evaluating": self._evaluations.one_is_running,
            },
        )

    def groups_after(self, step: int) -> Mapping[str, list[Trajectory]]:
        """The finished groups of windows after that of `step`, for its checkpoint to keep."""
        return self._windows.finished_after(step)

    def go_back(self, found: tuple[Path, Manifest] | None) -> None:
        """Set everything but learner and engines back to a checkpoint, or with None to the beginning."""
        if found is None:
            manifest, groups = self._beginning(), {}
        else:
            manifest, groups = found[1], read_groups(found[0])
        self._evaluations.forget()
        self._source.cursor = manifest.cursor
        self._judge.restore(manifest.judge)
        if manifest.summary:
            self.facts.clear()
            self.facts.update(manifest.summary)
        self._crew.probe_max = max(self._crew.probe_max, self.facts.get("probe_max_diff", 0.0))
        self._windows.take_up(manifest.step, manifest.cursor, manifest.windows, groups)
        if self.facts.pop("evaluating", False):
            self._evaluations.begin_beside()
        self._remembered = {manifest.step: manifest}

    def _beginning(self) -> Manifest:
        return Manifest(0, 0, {}, self._questions, Judge(self._judge.settings).state(), {}, 0.0)
