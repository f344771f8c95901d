"""The log of a run: each number, phase and sample goes to the run folder, to W&B and to the terminal from here."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from actors.episodes.trajectory import Trajectory
from cluster.runs.files import RunFolderError
from cluster.runs.folder import RunFolder
from cluster.session.watchdog import Watchdog
from cluster.tracking.progress_plot import plot_run
from cluster.tracking.terminal import Terminal
from cluster.tracking.wandb_run import Tracker

logger = logging.getLogger(__name__)


class RunLog:
    """Records a run's progress. `recorded` is the last step with a written row of metrics; -1 if there is none."""

    def __init__(
        self, folder: RunFolder, tracker: Tracker, terminal: Terminal, watchdog: Watchdog | None = None
    ) -> None:
        self.folder = folder
        self.recorded = -1
        self._tracker = tracker
        self._terminal = terminal
        self._watchdog = watchdog
        self._announced: set[str] = set()

    def phase(self, step: int, name: str) -> None:
        """Say that the run begins another phase, such as `roll out`."""
        self._terminal.phase(name)
        if self._watchdog is not None:
            self._watchdog.phase(f"step {step}: {name}")
        logger.info("step %d: %s", step, name)

    def announce(self, text: str) -> None:
        """Print a line that stays on the terminal."""
        self._terminal.announce(text)

    def announce_once(self, kind: str, text: str) -> None:
        """Print and log a line, but only the first of each `kind` in a run."""
        if kind not in self._announced:
            self._announced.add(kind)
            self._terminal.announce(text)
            logger.info("%s", text)

    def record(self, step: int, row: dict[str, float]) -> None:
        """Write the metrics of a step.

        Raises:
            RunFolderError: the disk is full.
            ValueError: `cluster.runs.metrics` does not declare a name.
        """
        self.folder.append_metrics({"step": step, **row})
        self.recorded = step
        self._tracker.log(step, row)
        self._terminal.step(step, row)

    def show(self, step: int, label: str, judged: Sequence[Trajectory]) -> None:
        """Write trajectories for people to read; a failure is logged and does not end the run."""
        try:
            self.folder.write_trajectories(step, label, judged)
        except RunFolderError as error:
            logger.warning("the step's trajectories are not shown: %s", error)

    def plot(self) -> None:
        """Draw the run's course; a failure is logged and does not end the run."""
        try:
            plot_run(self.folder.read_metrics(), self.folder.plot_file)
        except (OSError, RunFolderError) as error:
            logger.warning("%s was not drawn: %s", self.folder.plot_file, error)
