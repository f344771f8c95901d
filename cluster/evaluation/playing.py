"""Plays many episodes outside training, a limited number at a time; a keeper gets each one when it ends."""

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

_MOST_FAILURES = 8  # so many failed episodes in a row have a common cause, and end the command


class Playable(Protocol):
    """An episode to play; each keeper uses its own type, which has more fields."""

    @property
    def request(self) -> EpisodeRequest: ...


E = TypeVar("E", bound=Playable)
E_contra = TypeVar("E_contra", bound=Playable, contravariant=True)


class Keeper(Protocol[E_contra]):
    """Keeps the results of episodes. Its errors end the command."""

    place: Path  # the file or folder of the results, for messages
    error: type[ExplainedError]  # the class of error to raise if too many episodes fail

    def keep(self, episode: E_contra, played: PlayedEpisode) -> None:
        """Keep a finished episode."""
        ...

    def refuse(self, episode: E_contra, refused: Refused) -> str:
        """Note that the policy's model refused the prompt; return the reason for people."""
        ...

    def fail(self, episode: E_contra, played: PlayedEpisode, call: RouteCall) -> str:
        """Note that the episode is void because `call` failed; return the reason for people."""
        ...

    def finish(self) -> None:
        """Called after all episodes were played."""
        ...


async def play_all(policy: Policy, waiting: Sequence[E], keeper: Keeper[E], *, concurrency: int) -> None:
    """Play episodes, `concurrency` at a time; the keeper gets each one when it ends.

    Raises:
        ExplainedError: `_MOST_FAILURES` episodes in a row failed; the class is `keeper.error`.
        BudgetSpent: a cap of the run or day is used up.
        PoolError, LedgerError, RemoteModelError, PolicyUnavailable, CrewError, EngineLate: the policy or the candidates
            can't be reached.
    """
    shift = _Shift(policy, iter(waiting), keeper)
    await policy.start()
    try:
        await run_together(shift.work() for _ in range(min(concurrency, len(waiting))))
        keeper.finish()
    finally:
        await policy.close()


class _Shift(Generic[E]):
    """The state that all workers of one command share."""

    def __init__(self, policy: Policy, waiting: Iterator[E], keeper: Keeper[E]) -> None:
        self._policy, self._waiting, self._keeper = policy, waiting, keeper
        self._failures = 0  # since the last finished episode

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
                f"{why}; fix that, then the same command goes on"
            )
