"""Plays many episodes outside training, so many at a time; somebody else keeps each as it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from actors.episodes.episode import EpisodeRequest, PromptTooLong
from actors.errors import ExplainedError
from actors.together import run_together
from cluster.episodes.judging import BudgetSpent, spent_cap
from cluster.players.players import PlayedEpisode, Policy, Refused
from rewards.transcript import RouteCall, StopReason

_MOST_FAILURES = 8  # episodes in a row that fail: then it is no accident


class Playable(Protocol):
    """An episode that waits to be played; keepers know more of theirs."""

    @property
    def request(self) -> EpisodeRequest: ...


E = TypeVar("E", bound=Playable)
E_contra = TypeVar("E_contra", bound=Playable, contravariant=True)


class Keeper(Protocol[E_contra]):
    """Keeps what comes of episodes. What it raises ends the command."""

    place: Path  # where it keeps them, for messages
    error: type[ExplainedError]  # of a command that can't go on

    def keep(self, episode: E_contra, played: PlayedEpisode) -> None:
        """It came to its end."""
        ...

    def refuse(self, episode: E_contra, refused: Refused) -> str:
        """The policy's model did not take its prompt; returns why, for people."""
        ...

    def fail(self, episode: E_contra, played: PlayedEpisode, call: RouteCall) -> str:
        """It is void, for that call failed; returns why, for people."""
        ...

    def finish(self) -> None:
        """All have been played."""
        ...


async def play_all(policy: Policy, waiting: Sequence[E], keeper: Keeper[E], *, concurrency: int) -> None:
    """Play episodes, so many at a time; the keeper hears of each once it has ended.

    Raises:
        ExplainedError: the keeper's, as so many failed in a row that it is no accident.
        BudgetSpent: a cap of the run or day is used up.
        PoolError, LedgerError, RemoteModelError, PolicyUnavailable, CrewError, EngineLate: the policy or the candidates
            can't be asked.
    """
    shift = _Shift(policy, iter(waiting), keeper)
    await policy.start()
    try:
        await run_together(shift.work() for _ in range(min(concurrency, len(waiting))))
        keeper.finish()
    finally:
        await policy.close()


class _Shift(Generic[E]):
    """What the episodes of one command share."""

    def __init__(self, policy: Policy, waiting: Iterator[E], keeper: Keeper[E]) -> None:
        self._policy, self._waiting, self._keeper = policy, waiting, keeper
        self._failures = 0  # since an episode ended last

    async def work(self) -> None:
        keeper = self._keeper
        for each in self._waiting:
            try:
                played = await self._policy.play(each.request)
            except Refused as error:
                self._count_failure(each, keeper.refuse(each, error))
                continue
            except PromptTooLong as error:
                self._count_failure(each, keeper.refuse(each, Refused(str(error))))
                continue
            transcript = played.trajectory.transcript
            if cap := spent_cap([played.trajectory]):
                raise BudgetSpent(f"{cap}. What was played is in {keeper.place}; the same command goes on")
            if transcript.stop_reason is StopReason.VOID:
                call = next(call for call in transcript.calls if call.status.is_infrastructure)
                self._count_failure(each, keeper.fail(each, played, call))
                continue
            keeper.keep(each, played)
            self._failures = 0

    def _count_failure(self, episode: Playable, why: str) -> None:
        self._failures += 1
        if self._failures >= _MOST_FAILURES:
            raise self._keeper.error(
                f"{self._failures} episodes in a row failed, the last of question {episode.request.question.id!r}: "
                f"{why}; mend that, then the same command goes on"
            )
