"""The state of a run beside the learner's own: what a checkpoint keeps of it, and how a run goes back to one."""

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
    """Remembers where questions, windows and the judge stand after a step, until its checkpoint is written.

    While the learner learns from step n, the judge and the source already hold what step n needed, and the windows of
    later steps play on. So the state after a step is taken down before the step is learnt from.
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
        """`facts` of the summary, known before its end; whoever finds one adds it there."""
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
        """Take down the state after `step`."""
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
        """Keep nothing of steps before `step`: no checkpoint of them will be written."""
        for earlier in [number for number in self._remembered if number < step]:
            del self._remembered[earlier]

    def manifest(self, step: int) -> Manifest:
        """The manifest of a checkpoint after `step`, with the money, time and facts of now."""
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
        """The finished groups of windows after that of `step`, which its checkpoint keeps."""
        return self._windows.finished_after(step)

    def go_back(self, found: tuple[Path, Manifest] | None) -> None:
        """Everything but learner and engines as a checkpoint has it; None goes back to the beginning."""
        if found is None:
            manifest, groups = self._beginning(), {}
        else:
            manifest, groups = found[1], read_groups(found[0])
        self._source.cursor = manifest.cursor
        self._judge.restore(manifest.judge)
        if manifest.summary:
            self.facts.clear()
            self.facts.update(manifest.summary)
        self._crew.probe_max = max(self._crew.probe_max, self.facts.get("probe_max_diff", 0.0))
        self._windows.take_up(manifest.step, manifest.cursor, manifest.windows, groups)
        self._evaluations.take_up(running=self.facts.pop("evaluating", False))
        self._remembered = {manifest.step: manifest}

    def _beginning(self) -> Manifest:
        return Manifest(0, 0, {}, self._questions, Judge(self._judge.settings).state(), {}, 0.0)
