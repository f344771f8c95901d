"""The checkpoints of a run: the learner's ranks write them while the engines play; one rename completes them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from actors.episodes.trajectory import Trajectory
from cluster.runs.checkpoint_folder import check_checkpoint
from cluster.runs.clock import Clock
from cluster.runs.files import RunFolderError
from cluster.runs.folder import RunFolder
from cluster.runs.group_file import write_groups
from cluster.runs.manifest import STATE, Manifest, ResumeError, read_manifest
from cluster.runs.mirror import Mirror
from cluster.training.run_state import RunState
from learner.gang import Call, LearnerError, LearnerGang, RankLost

logger = logging.getLogger(__name__)

Groups = Mapping[str, list[Trajectory]]


@dataclass(slots=True)
class _Writing:
    """A checkpoint that the ranks are writing."""

    stack: ExitStack  # closing it completes the checkpoint, or removes it after an error
    stage: Path
    call: Call
    manifest: Manifest
    groups: Groups
    began: float


class CheckpointWriter:
    """Writes one checkpoint at a time, in the background: calls to the ranks meanwhile wait until it is written."""

    def __init__(self, gang: LearnerGang, folder: RunFolder, keep: int, mirror: Mirror | None = None) -> None:
        """`keep` is how many checkpoints stay in the folder. If there is a `mirror`, each is copied to it."""
        self._gang = gang
        self._mirror = mirror
        self._folder = folder
        self._keep = keep
        self.saved = 0  # the step of the newest complete checkpoint of this process; 0 if there is none
        self._writing: _Writing | None = None

    def begin(self, manifest: Manifest, groups: Groups) -> None:
        """Finish the checkpoint under way, then have the ranks write their state, after their earlier calls.

        Raises:
            RunFolderError: the step was saved before, or the disk is full.
            LearnerError, RankLost: as `finish`.
        """
        self.finish()
        stack = ExitStack()
        stage = stack.enter_context(self._folder.new_checkpoint(manifest.step))
        with stack:  # an error removes the unfinished checkpoint
            call = self._gang.begin("save_checkpoint", stage, stage / STATE)
            self._writing = _Writing(stack.pop_all(), stage, call, manifest, groups, time.monotonic())

    def finish(self) -> float | None:
        """Wait for the checkpoint under way and complete it; return the seconds since its begin, None if there is none.

        Raises:
            LearnerError, RankLost: a rank failed; the unfinished checkpoint is removed.
            RunFolderError: the checkpoint could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return None
        with writing.stack:
            self._gang.end(writing.call)
            write_groups(writing.groups, writing.stage)
            writing.manifest.write(writing.stage)
            check_checkpoint(writing.stage)  # a rank on another node may have written to that node's own disk
        self.saved = writing.manifest.step
        self._gang.restart_from(self._folder.checkpoint(writing.manifest.step) / STATE)
        self._folder.prune(self._keep, heavy=STATE)
        if self._mirror is not None:
            self._mirror.begin(self._folder, self._folder.checkpoint(writing.manifest.step))
        return time.monotonic() - writing.began

    def abandon(self) -> None:
        """Remove the checkpoint under way, because the gang that wrote it has ended."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with contextlib.suppress(_AbandonedError), writing.stack:
                raise _AbandonedError


class _AbandonedError(Exception):
    """Ends the writing of a checkpoint that will not be finished."""


def newest_manifest(folder: RunFolder) -> tuple[Path, Manifest] | None:
    """The newest checkpoint that a run can resume from, with its manifest; None if there is no checkpoint.

    Raises:
        ResumeError: the run can resume from none of its checkpoints; the message is about the newest.
    """
    first: ResumeError | None = None
    for checkpoint in reversed(folder.checkpoints()):
        try:
            return checkpoint, read_manifest(checkpoint)
        except ResumeError as error:
            logger.warning("a checkpoint is skipped: %s", error)
            first = first or error
    if first is not None:
        raise first
    return None


class Checkpoints:
    """Begins checkpoints of a run while the engines play, and decides which failures of a checkpoint end the run."""

    def __init__(self, writer: CheckpointWriter, state: RunState, folder: RunFolder, clock: Clock) -> None:
        self._writer = writer
        self._state = state
        self._folder = folder
        self._clock = clock

    @property
    def saved(self) -> int:
        """The step of the newest complete checkpoint of this process; 0 if there is none."""
        return self._writer.saved

    def begin(self, step: int) -> None:
        """Begin the checkpoint of a step, unless it exists.

        Raises:
            LearnerError, RankLost, RunFolderError: as `CheckpointWriter`.
        """
        self._writer.finish()
        if not self._folder.checkpoint(step).exists():
            self._writer.begin(self._state.manifest(step), self._state.groups_after(step))

    def begin_or_miss(self, step: int) -> None:
        """As `begin`, but only log a checkpoint that can't be written."""
        with _missed_at_worst():
            self.begin(step)

    def finish_or_miss(self) -> dict[str, float]:
        """Wait for the checkpoint under way, if any; return its metrics. Only log one that can't be written."""
        written = None
        with _missed_at_worst():
            written = self._writer.finish()
        if written is None:
            return {}
        self._clock.timeline.add("checkpoint", "checkpoints", written)
        return {"time/checkpoint_s": written}

    def write(self, step: int) -> None:
        """Write the checkpoint of a step, unless it exists, and wait for it.

        Raises:
            LearnerError, RankLost, RunFolderError: as `CheckpointWriter`.
        """
        self.begin(step)
        self._writer.finish()

    def abandon(self) -> None:
        """Remove the checkpoint under way, because the learner lost a rank."""
        self._writer.abandon()


@contextlib.contextmanager
def _missed_at_worst() -> Iterator[None]:
    """Log a checkpoint that can't be written, and go on: older checkpoints exist, and the next one may succeed."""
    try:
        yield
    except RankLost:
        raise
    except (LearnerError, RunFolderError) as error:
        logger.warning("a checkpoint was not written, and training goes on: %s", error)
