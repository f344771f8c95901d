"""The step watch: what engines, callers and driver did in a step, as idle shares and as slices of the trace."""

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
    """Asks the actors what they have been doing, at a step's begin and at its end."""

    def __init__(self, engine: EngineSettings, crew: Crew, timeline: Timeline, folder: RunFolder) -> None:
        """`timeline` is the driver's own; where it is on, a trace file is begun in the run folder."""
        self._engine = engine
        self._crew = crew
        self._timeline = timeline
        self._folder = folder
        self._file: TraceFile | None = None
        self._before: Readings | None = None

    def begin(self, step: int) -> None:
        """The step begins."""
        if self._timeline.on and self._file is None:
            with self._tracing():
                self._file = TraceFile(self._folder.path / f"trace_from_step_{step:06d}.json")
        self._before = self._read()

    def end(self, *, learn_s: float, step_s: float) -> dict[str, float]:
        """The step is over; its idle shares, under the names of `cluster.runs.metrics`."""
        assert self._before is not None, "a step ends that never began"
        target = self._engine.max_num_seqs
        return idleness(self._before, self._read(), learn_s=learn_s, step_s=step_s, target=target)

    def close(self) -> None:
        """Write what is left of the trace."""
        with self._tracing():
            if self._file is not None:
                self._file.write("driver", self._timeline.take())
                self._file.close()
        self._file = None

    def _read(self) -> Readings:
        """Ask everybody who answers; those that don't are the fleet's and the pool's to deal with."""
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
        """No run ends for want of its trace."""
        try:
            yield
        except OSError as error:
            logger.warning("the trace ends here, and training goes on: %s", error)
            self._timeline.on, self._file = False, None
