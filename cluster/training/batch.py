"""The batch: which groups of a step the learner trains on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from actors.episodes.trajectory import Trajectory
from actors.errors import ExplainedError


class RolloutError(ExplainedError, RuntimeError):
    """No group of a batch can be trained on; the message gives the last call that failed."""


def whole_groups(
    trajectories: Sequence[Trajectory], *, version: int, max_staleness: int, fewest: int = 2
) -> list[Trajectory]:
    """The trajectories of the groups that can be trained on.

    A group needs `fewest` judged members or more, and no token from over `max_staleness` versions before `version`.
    Void episodes are left out of their group: the policy gets no reward for failures of the infrastructure.
    """
    groups: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        if trajectory.reward is not None:
            groups[trajectory.group].append(trajectory)
    return [
        trajectory
        for members in groups.values()
        if len(members) >= fewest and all(version - t.oldest_version <= max_staleness for t in members)
        for trajectory in members
    ]


def admit(trajectories: Sequence[Trajectory], *, version: int, max_staleness: int, fewest: int = 2) -> list[Trajectory]:
    """The `whole_groups` of a batch.

    Raises:
        RolloutError: no group is left.
    """
    kept = whole_groups(trajectories, version=version, max_staleness=max_staleness, fewest=fewest)
    if not kept:
        void = [t for t in trajectories if t.reward is None]
        failed = [call for t in void for call in t.transcript.calls if call.status.is_infrastructure]
        last = failed[-1] if failed else None
        why = f"the last call to {last.model} ended {last.status}: {last.error}" if last else "no call failed"
        raise RolloutError(
            f"no group of the batch can be trained on: {len(void)} of {len(trajectories)} episodes are void; {why}. "
            "Check that the candidates are reachable (candidates.*), then go on with `router-r1 train --resume RUN`"
        )
    return kept
