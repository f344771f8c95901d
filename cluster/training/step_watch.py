"""The step watch: how busy engines, callers and learner were in a step, as idle shares and as slices of a trace."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from actors.settings import EngineSettings
from actors.timeline import Timeline
from cluster.runs.folder import RunFolder
from cluster.tracking.trace_file import TraceFile
from cluster.training.idleness import Readings, idleness
from cluster.workers.run_actors import Crew

logger = logging.getLogger(__name__)


class StepWatch:
    """Asks the actors for their loads when a step begins and when it ends."""

    def __init__(self, engine: EngineSettings, crew: Crew, timeline: Timeline, folder: RunFolder) -> None:
        """`timeline` is the driver's own; if it is on, a trace file is written into the run folder."""
        self._engine = engine
        self._crew = crew
        self._timeline = timeline
        self._folder = folder
        self._file: TraceFile | None = None
        self._before: Readings | None = None

    def begin(self, step: int) -> None:
        """Read the loads as a step begins."""
        if self._timeline.on and self._file is None:
            with self._tracing():
                self._file = TraceFile(self._folder.path / f"trace_from_step_{step:06d}.json")
        self._before = self._read()

    def end(self, *, learn_s: float, step_s: float) -> dict[str, float]:
        """The idle shares of the step that has ended, under the names of `cluster.runs.metrics`; times in seconds."""
        assert self._before is not None, "a step ends that never began"
        target = self._engine.max_num_seqs
        return idleness(self._before, self._read(), learn_s=learn_s, step_s=step_s, target=target)

    def close(self) -> None:
        """Write the rest of the driver's trace and close the file."""
        with self._tracing():
            if self._file is not None:
                self._file.write("driver", self._timeline.take())
                self._file.close()
        self._file = None

    def _read(self) -> Readings:
        """The loads of the actors that answer; the fleet and the pool handle those that do not."""
        reports = self._crew.fleet.reports()
        with self._tracing():
            if self._file is not None:
                self._file.write("driver", self._timeline.take())
                for worker, report in reports.items():
                    self._file.write(f"rollout worker {worker.index}", report.slices)
        return Readings(
            {worker: report.generating for worker, report in reports.items()},
            self._crew.pool.stats(),
            [report.target for report in reports.values()],
        )

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        """Stop tracing if the file can't be written: that must not end the run."""
        try:
            yield
        except OSError as error:
            logger.warning("the trace ends here, and training goes on: %s", error)
            self._timeline.on, self._file = False, None
