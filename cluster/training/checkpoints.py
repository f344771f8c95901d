"""The checkpoints of a run: written by the learner's ranks while the engines play, and made whole by one rename."""

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

    stack: ExitStack  # its end makes the checkpoint whole, or removes it
    stage: Path
    call: Call
    manifest: Manifest
    groups: Groups
    began: float


class CheckpointWriter:
    """Writes one checkpoint at a time, in the background: what is asked of the ranks meanwhile queues up behind it."""

    def __init__(self, gang: LearnerGang, folder: RunFolder, keep: int, mirror: Mirror | None = None) -> None:
        """`keep` checkpoints stay in the folder, and each is copied to the mirror, if there is one."""
        self._gang = gang
        self._mirror = mirror
        self._folder = folder
        self._keep = keep
        self.saved = 0  # the step of the newest whole checkpoint, of those written here
        self._writing: _Writing | None = None

    def begin(self, manifest: Manifest, groups: Groups) -> None:
        """Have the ranks write their state as it is now, once what they were asked before is done.

        Raises:
            RunFolderError: the step was saved before, or the disk is full.
        """
        self.finish()
        stack = ExitStack()
        stage = stack.enter_context(self._folder.new_checkpoint(manifest.step))
        with stack:  # on the way out by an error, nothing stays
            call = self._gang.begin("save_checkpoint", stage, stage / STATE)
            self._writing = _Writing(stack.pop_all(), stage, call, manifest, groups, time.monotonic())

    def finish(self) -> float | None:
        """Wait for the checkpoint under way and make it whole; returns the seconds since it was begun, None for none.

        Raises:
            LearnerError, RankLost: a rank failed; nothing is left of the checkpoint.
            RunFolderError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return None
        with writing.stack:
            self._gang.end(writing.call)
            write_groups(writing.groups, writing.stage)
            writing.manifest.write(writing.stage)
            check_checkpoint(writing.stage)  # on another node's own disk it would be missing here
        self.saved = writing.manifest.step
        self._gang.restart_from(self._folder.checkpoint(writing.manifest.step) / STATE)
        self._folder.prune(self._keep, heavy=STATE)
        if self._mirror is not None:
            self._mirror.begin(self._folder, self._folder.checkpoint(writing.manifest.step))
        return time.monotonic() - writing.began

    def abandon(self) -> None:
        """Remove what is half written; for a gang that is no more."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with contextlib.suppress(_AbandonedError), writing.stack:
                raise _AbandonedError


class _AbandonedError(Exception):
    """A checkpoint will not be finished."""


def newest_manifest(folder: RunFolder) -> tuple[Path, Manifest] | None:
    """The newest checkpoint that a run can go on from, with its manifest; None where there is none yet.

    Raises:
        ResumeError: there are checkpoints, and not one can be gone on from; the message tells of the newest.
    """
    first: ResumeError | None = None
    for checkpoint in reversed(folder.checkpoints()):
        try:
            return checkpoint, read_manifest(checkpoint)
        except ResumeError as error:
            logger.warning("a checkpoint is passed over: %s", error)
            first = first or error
    if first is not None:
        raise first
    return None


class Checkpoints:
    """Begins checkpoints of a run while the engines play on, and decides which failures to write one are borne."""

    def __init__(self, writer: CheckpointWriter, state: RunState, folder: RunFolder, clock: Clock) -> None:
        self._writer = writer
        self._state = state
        self._folder = folder
        self._clock = clock

    @property
    def saved(self) -> int:
        """The step of the newest whole checkpoint, of those written here."""
        return self._writer.saved

    def begin(self, step: int) -> None:
        """Have the state after a step written, unless it is there.

        Raises:
            LearnerError, RankLost, RunFolderError: as `CheckpointWriter`.
        """
        self._writer.finish()
        if not self._folder.checkpoint(step).exists():
            self._writer.begin(self._state.manifest(step), self._state.groups_after(step))

    def begin_or_miss(self, step: int) -> None:
        """As `begin`, but a checkpoint that can't be written is only logged."""
        with _missed_at_worst():
            self.begin(step)

    def finish_or_miss(self) -> dict[str, float]:
        """Wait for the checkpoint under way, if any; returns its metrics. One that can't be written is only logged."""
        written = None
        with _missed_at_worst():
            written = self._writer.finish()
        if written is None:
            return {}
        self._clock.timeline.add("checkpoint", "checkpoints", written)
        return {"time/checkpoint_s": written}

    def write(self, step: int) -> None:
        """Have the state after a step written, unless it is there, and wait for it.

        Raises:
            LearnerError, RankLost, RunFolderError: as `CheckpointWriter`.
        """
        self.begin(step)
        self._writer.finish()

    def abandon(self) -> None:
        """Remove what is half written; for a learner that lost a rank."""
        self._writer.abandon()


@contextlib.contextmanager
def _missed_at_worst() -> Iterator[None]:
    """A checkpoint that can't be written is missed: the next may be, and those saved before are still there."""
    try:
        yield
    except RankLost:
        raise
    except (LearnerError, RunFolderError) as error:
        logger.warning("a checkpoint was not written, and training goes on: %s", error)
