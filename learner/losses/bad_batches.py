"""Bad batches: batches with a number that is not finite, in the input or on the ranks. Counts and saves them."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from actors.episodes.trajectory import Trajectory
from actors.errors import ExplainedError
from learner.losses.scores import SampleScores

log = logging.getLogger(__name__)


class NonFiniteError(ExplainedError, RuntimeError):
    """Training met a number that is not finite and can't continue; the message names the trajectories."""


def label(trajectory: Trajectory) -> str:
    """A trajectory's name in error messages."""
    return f"group {trajectory.group!r} seed {trajectory.seed}"


def some(labels: Sequence[str], most: int = 8) -> str:
    """The first `most` labels as one text, and how many more there are."""
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more


def bad_input(trajectories: Sequence[Trajectory]) -> tuple[str, list[str]] | None:
    """What in a batch's input is not finite, and the labels of the trajectories with it; None if all is finite."""
    found = [
        ("reward is not finite", [label(t) for t in trajectories if not _finite_reward(t)]),
        ("the engine's log-probability is not finite", [label(t) for t in trajectories if not _finite_logprobs(t)]),
    ]
    return next(((reason, labels) for reason, labels in found if labels), None)


def bad_scores(trajectories: Sequence[Trajectory], scores: Mapping[int, SampleScores]) -> tuple[str, list[str]] | None:
    """As `bad_input`, for the ranks' scores of the batch, by index in `trajectories`."""
    found = {place: reason for place, score in scores.items() if (reason := score.not_finite)}
    if not found:
        return None
    reasons = " and ".join(dict.fromkeys(found.values()))
    return f"{reasons} is not finite", [label(trajectories[place]) for place in sorted(found)]


def _finite_reward(trajectory: Trajectory) -> bool:
    reward = trajectory.reward  # a missing reward is refused later, with its own message
    return reward is None or all(map(math.isfinite, (reward.total, *reward.components.values())))


def _finite_logprobs(trajectory: Trajectory) -> bool:
    sampled, logprobs = trajectory.sampled, trajectory.logprobs
    return len(sampled) != len(logprobs) or bool(np.isfinite(logprobs[sampled]).all())  # `make_samples` checks lengths


class BadBatches:
    """Counts bad batches in a row, and saves each in its own file."""

    def __init__(self, most: int, folder: Path | None) -> None:
        """The `most`-th bad batch in a row is an error. Without a `folder` no file is written."""
        self.most, self.folder = most, folder
        self.in_a_row = 0

    def good(self) -> None:
        """Note that a batch was trained on, which ends the row of bad batches."""
        self.in_a_row = 0

    def add(self, batch: int, reason: str, suspects: Collection[str], trajectories: Sequence[Trajectory]) -> None:
        """Note a batch that was not trained on; `suspects` are labels of trajectories.

        Raises:
            NonFiniteError: it is the `most`-th bad batch in a row.
        """
        self.in_a_row += 1
        where = ""
        if self.folder is not None:
            path = self.folder / f"batch-{batch:06d}.jsonl"
            try:
                write_batch(path, reason, suspects, trajectories)
                where = f"; the batch is in {path}"
            except OSError as error:  # training continues without the batch, so it can continue without the file too
                where = f"; the batch can't be saved ({error})"
        message = f"batch {batch} was skipped: {reason}, trajectories {some(list(suspects))}{where}"
        if self.in_a_row >= self.most:
            raise NonFiniteError(
                f"{message}. These are {self.in_a_row} in a row (learner.max_bad_steps={self.most}); none of these bad "
                "steps was taken. Lower learner.optimizer.lr, or look at the trajectories' rewards and logprobs"
            )
        log.warning("%s; %d in a row, learner.max_bad_steps=%d", message, self.in_a_row, self.most)


def write_batch(path: Path, reason: str, suspects: Collection[str], trajectories: Sequence[Trajectory]) -> None:
    """Write JSON lines: the reason, then one line per trajectory. Python's json reads their NaN and Infinity."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"reason": reason, "suspects": list(suspects)})]
    lines += [json.dumps(_row(t, suspect=label(t) in suspects)) for t in trajectories]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(trajectory: Trajectory, *, suspect: bool) -> dict[str, object]:
    arrays = ("token_ids", "sampled", "logprobs", "versions")
    return {
        "question": trajectory.question.id,
        "group": trajectory.group,
        "seed": trajectory.seed,
        "suspect": suspect,
        "reward": asdict(trajectory.reward) if trajectory.reward is not None else None,
        **{name: getattr(trajectory, name).tolist() for name in arrays},
    }
