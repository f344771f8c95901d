"""Plays many episodes outside training, so many at a time, and keeps each as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actors.episodes.episode import EpisodeRequest, PromptTooLong
from actors.episodes.menu import Renaming
from actors.pool.cards import ModelCard
from actors.questions import Question
from actors.together import run_together
from benchmarks.evaluation.item import Item, Key, played_item, refused_item
from benchmarks.evaluation.protocol import Pass
from cluster.config.settings import Config
from cluster.episodes.judging import BudgetSpent, spent_cap
from cluster.episodes.requests import evaluation_requests
from cluster.evaluation.folder import EvaluationFolder
from cluster.evaluation.options import EvaluateError
from cluster.evaluation.repricing import PriceFactors, reprice, reprice_episode
from cluster.players.players import Policy, Refused
from rewards.transcript import StopReason

_SAMPLE_SEEDS = 1 << 33  # between the samples of a question; seeds are multiplied by 16 and stay below 2^63


_MOST_FAILURES = 8  # episodes in a row that fail: then it is no accident


@dataclass(frozen=True, slots=True)
class Waiting:
    """An episode to be played, and where its item belongs."""

    key: Key
    request: EpisodeRequest
    factors: PriceFactors = field(default_factory=dict)  # on prices that its calls count with


def episodes_of(
    config: Config,
    passes: Sequence[Pass],
    questions: Sequence[Question],
    cards: Sequence[ModelCard],
    names: Renaming = "seen",
) -> list[Waiting]:
    """Every episode of an evaluation with these candidates. Those of a question have the same menu and budget, whatever
    the pass; each has a place of its own in the ledger, and a seed of its own."""
    found = []
    for each in passes:
        changed: dict[str, Any] = {"policy": config.policy.model_copy(update={"eval_temperature": each.temperature})}
        told = ""
        if each.budget_usd is not None:
            changed["episode"] = config.episode.model_copy(update={"eval_budget_usd": each.budget_usd})
            told = f"-b{each.budget_usd:g}"
        requests = evaluation_requests(config.model_copy(update=changed), 0, questions, cards, names)
        for sample in range(each.samples):
            for index, request in enumerate(requests):
                question = request.question
                group = f"evaluate-t{each.temperature:g}{told}-{sample}-{index}"
                placed = replace(request, group=group, seed=request.seed + sample * _SAMPLE_SEEDS)
                found.append(Waiting((each.row, question.dataset, question.id, sample), placed))
    return found


async def play_all(
    policy: Policy,
    waiting: Sequence[Waiting],
    folder: EvaluationFolder,
    *,
    concurrency: int,
    told: Callable[[], None],
) -> None:
    """Play episodes, so many at a time; each is in the folder once it has ended, and `told` hears of it.

    Raises:
        EvaluateError: so many failed in a row that it is no accident.
        BudgetSpent: a cap of the run or day is used up.
        PoolError, LedgerError, TeacherError, PolicyUnavailable, CrewError, EngineLate: the policy or the candidates
            can't be asked.
    """
    if not waiting:
        return
    shift = _Shift(policy, iter(waiting), folder, told)
    await policy.start()
    try:
        await run_together(shift.work() for _ in range(min(concurrency, len(waiting))))
        shift.believe_refusals()
    finally:
        await policy.close()


class _Shift:
    """What the episodes of one command share."""

    def __init__(
        self, policy: Policy, waiting: Iterator[Waiting], folder: EvaluationFolder, told: Callable[[], None]
    ) -> None:
        self._policy, self._waiting, self._folder, self._told = policy, waiting, folder, told
        self._failures = 0  # since an episode ended last
        self._refused: list[tuple[Item, str]] = []  # and why, while nothing else has been answered

    async def work(self) -> None:
        for each in self._waiting:
            try:
                trajectory, usd = await self._policy.play(each.request)
            except Refused as error:
                self._refuse(each, error)
                continue
            except PromptTooLong as error:
                self._refuse(each, Refused(str(error)))
                continue
            if cap := spent_cap([trajectory]):
                raise BudgetSpent(f"{cap}. What was answered is in {self._folder.path}; the same command goes on")
            if trajectory.transcript.stop_reason is StopReason.VOID:
                call = next(call for call in trajectory.transcript.calls if call.status.is_infrastructure)
                self._fail(each.key, f"a call to {call.model} ended {call.status}: {call.error}")
                continue
            row, _, _, sample = each.key
            trajectory = reprice_episode(trajectory, each.factors)
            item = played_item(row, sample, trajectory, usd)
            self._folder.keep_episode(item, trajectory)
            self._folder.add(item)
            self._failures = 0
            self.believe_refusals()
            self._told()

    def _refuse(self, episode: Waiting, refused: Refused) -> None:
        row, _, _, sample = episode.key
        item = refused_item(
            row,
            sample,
            episode.request.question,
            turns=reprice(refused.turns, episode.factors),
            policy_tokens=refused.tokens,
            policy_usd=refused.usd,
        )
        self._refused.append((item, str(refused)))
        self._count_failure(episode.key, str(refused))

    def believe_refusals(self) -> None:
        """A model that answers and does not take a question has got that one wrong; one that takes none at all is
        likelier asked in a wrong way."""
        for item, why in self._refused:
            self._folder.fail(item.key, why)
            self._folder.add(item)
        self._refused = []

    def _fail(self, key: Key, why: str) -> None:
        self._folder.fail(key, why)
        self._count_failure(key, why)

    def _count_failure(self, key: Key, why: str) -> None:
        self._failures += 1
        self._told()
        if self._failures >= _MOST_FAILURES:
            raise EvaluateError(
                f"{self._failures} episodes in a row failed, the last of question {key[2]!r}: {why}; mend that, then "
                "the same command goes on"
            )
