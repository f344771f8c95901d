"""The play: a group of episodes that is being played, and the rollout worker that plays it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from actors.episodes.episode import EpisodeRequest, Unfinished
from actors.episodes.trajectory import Trajectory

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

    from actors.episodes.rollout_worker import RolloutWorker
    from actors.stacks import Whereabouts


@dataclass(eq=False, slots=True)
class Play:
    """A group of episodes being played; its trajectories once it is done."""

    requests: Sequence[EpisodeRequest]
    worker: Worker | None = None  # None while nobody may play it
    call: ObjectRef[list[Trajectory]] | None = None  # of the worker; None once it is done
    trajectories: list[Trajectory] | None = None
    parts: list[EpisodeRequest | Unfinished | Trajectory] | None = None  # set if an engine was lost meanwhile

    def jobs(self) -> list[EpisodeRequest | Unfinished]:
        """The episodes to play: all of them, or those that a lost engine did not finish."""
        return [part for part in self.parts or self.requests if not isinstance(part, Trajectory)]

    def keep(self, salvaged: Mapping[str, Trajectory | Unfinished]) -> None:
        """Go on from where the episodes stood when their engine was lost."""
        parts = self.parts or [*self.requests]
        self.parts = [salvaged.get(request.episode, part) for request, part in zip(self.requests, parts, strict=True)]

    def finish(self, played: list[Trajectory]) -> None:
        """Take the trajectories of its jobs."""
        if self.parts is None:
            self.trajectories = played
        else:
            rest = iter(played)
            self.trajectories = [part if isinstance(part, Trajectory) else next(rest) for part in self.parts]


@dataclass(eq=False, slots=True)
class Worker:
    """A rollout worker; `ready` once it holds the learner's weights and may be given groups."""

    index: int
    actor: ActorHandle[RolloutWorker]
    starting: ObjectRef[Whereabouts]
    ready: bool = False
    plays: set[Play] = field(default_factory=set)
    ping: ObjectRef[None] | None = None  # the newest; the worker answers after its engine has answered
    pinged_at: float = 0.0
    episodes: int = 0  # how many its plays have

    def take(self, play: Play) -> None:
        """Begin to play a group."""
        play.worker, play.call = self, self.actor.rollout.remote(play.jobs())
        self.plays.add(play)
        self.episodes += len(play.requests)

    def drop(self, play: Play) -> None:
        """Remove a group that has ended or was cancelled."""
        if play in self.plays:
            self.plays.remove(play)
            self.episodes -= len(play.requests)
