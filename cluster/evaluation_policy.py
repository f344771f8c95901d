"""The policy under evaluation: an engine's or another endpoint's model, played by the episodes of training."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from actors.episode import Episode, EpisodeRequest, PromptTooLong
from actors.menu import Renaming
from actors.pool.caller import CandidateCaller
from actors.pool.cards import ModelCard
from actors.questions import Question
from actors.teacher import Player, Teacher, TeacherRefusal
from actors.together import run_together
from actors.trajectory import Trajectory
from benchmarks.item import Item, Key, played_item, refused_item
from benchmarks.protocol import Pass
from cluster.batch import BudgetSpent, spent_cap
from cluster.config import Config
from cluster.evaluation_assignment import EvaluateError
from cluster.evaluation_folder import EvaluationFolder
from cluster.policies import locate_checkpoint
from cluster.repricing import PriceFactors, reprice, reprice_episode
from cluster.requests import evaluation_requests, readable_rules
from cluster.responder import PolicySource, Responder
from rewards.transcript import StopReason, Turn

_SAMPLE_SEEDS = 1 << 33  # between the samples of a question; seeds are multiplied by 16 and stay below 2^63
_MOST_FAILURES = 8  # episodes in a row that fail: then it is no accident


@dataclass(frozen=True, slots=True)
class Waiting:
    """An episode to be played, and where its item belongs."""

    key: Key
    request: EpisodeRequest
    factors: PriceFactors = field(default_factory=dict)  # on prices that its calls count with


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model that plays the policy over an OpenAI-compatible endpoint. Prices are USD per million tokens."""

    url: str
    model: str
    key: str | None = None
    timeout_s: float = 120.0
    price_in: float = 0.0
    price_out: float = 0.0


class Refused(RuntimeError):
    """The policy's model did not take a prompt; it bears the episode so far, its tokens and their price."""

    def __init__(self, why: str, turns: Sequence[Turn] = (), *, tokens: int = 0, usd: float = 0.0) -> None:
        super().__init__(why)
        self.turns, self.tokens, self.usd = tuple(turns), tokens, usd


class Policy(Protocol):
    """Plays episodes between `start` and `close`; a start that fails leaves nothing behind."""

    async def start(self) -> None: ...

    async def play(self, request: EpisodeRequest) -> tuple[Trajectory, float]:
        """The episode, and what the policy's own tokens cost in USD.

        Raises:
            Refused, PromptTooLong: the model does not take a prompt.
        """
        ...

    async def close(self) -> None: ...


class EnginePolicy:
    """A checkpoint on an engine of its own, which costs nothing."""

    def __init__(self, source: PolicySource, cards: Sequence[ModelCard], caller: CandidateCaller) -> None:
        self._responder = Responder(source, cards, caller)

    async def start(self) -> None:
        await self._responder.start()

    async def play(self, request: EpisodeRequest) -> tuple[Trajectory, float]:
        return await self._responder.play(request), 0.0

    async def close(self) -> None:
        await self._responder.close()


class ChatPolicy:
    """A model at an endpoint, which reads the rules where the recipe's prompt takes them for granted."""

    def __init__(self, endpoint: Endpoint, config: Config, caller: CandidateCaller) -> None:
        self._endpoint, self._config, self._caller = endpoint, config, caller
        self._teacher = Teacher(endpoint.url, endpoint.model, key=endpoint.key, timeout_s=endpoint.timeout_s)
        self._tokenizer: Any = None

    async def start(self) -> None:
        try:
            await self._caller.check()
            self._tokenizer = await asyncio.to_thread(load_tokenizer, self._config)
        except BaseException:
            await self.close()
            raise

    async def play(self, request: EpisodeRequest) -> tuple[Trajectory, float]:
        config, endpoint = self._config, self._endpoint
        player = Player(self._teacher, self._tokenizer, request.prompt(readable_rules(config.episode)))
        episode = Episode(
            request,
            tokenizer=self._tokenizer,
            generate=player.generate,
            ask=self._caller.ask,
            settings=config.episode,
            max_model_len=config.engine.max_model_len,
            observer=player,
        )

        def usd() -> float:
            return (player.prompt_tokens * endpoint.price_in + player.completion_tokens * endpoint.price_out) / 1e6

        try:
            return await episode.run(), usd()
        except TeacherRefusal as error:
            begun = episode.so_far()
            raise Refused(str(error), begun.turns, tokens=sum(begun.buffer.sampled), usd=usd()) from error

    async def close(self) -> None:
        try:
            await self._caller.close()
        finally:
            await self._teacher.close()


def load_tokenizer(config: Config) -> Any:
    """The tokenizer of the recipe's policy, in whose tokens episodes are counted.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    from transformers import AutoTokenizer

    checkpoint = locate_checkpoint(config.policy.checkpoint, config.run.folder / ".cache")
    return AutoTokenizer.from_pretrained(str(checkpoint))


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
