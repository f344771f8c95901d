"""The policy under evaluation: a checkpoint on an engine or a model at an endpoint, in the episodes of training."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actors.checkpoint_loading import read_tokenizer
from actors.episodes.episode import Episode, EpisodeRequest
from actors.episodes.remote_model import Player, Teacher, TeacherRefusal
from actors.episodes.trajectory import Trajectory
from actors.pool.caller import CandidateCaller
from actors.pool.cards import ModelCard
from cluster.config.settings import Config
from cluster.episodes.requests import readable_rules
from cluster.players.responder import PolicySource, Responder
from cluster.runs.policy_checkpoints import locate_checkpoint
from rewards.transcript import Turn


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
    """The policy's model rejected a prompt; the error holds the episode so far, its tokens and their price in USD."""

    def __init__(self, why: str, turns: Sequence[Turn] = (), *, tokens: int = 0, usd: float = 0.0) -> None:
        super().__init__(why)
        self.turns, self.tokens, self.usd = tuple(turns), tokens, usd


class Policy(Protocol):
    """Plays episodes between `start` and `close`; a start that fails leaves nothing behind."""

    async def start(self) -> None: ...

    async def play(self, request: EpisodeRequest) -> tuple[Trajectory, float]:
        """The episode, and what the policy's own tokens cost in USD.

        Raises:
            Refused, PromptTooLong: the model rejects a prompt.
        """
        ...

    async def close(self) -> None: ...


class EnginePolicy:
    """A checkpoint on an engine of its own, whose tokens cost nothing."""

    def __init__(self, source: PolicySource, cards: Sequence[ModelCard], caller: CandidateCaller) -> None:
        self._responder = Responder(source, cards, caller)

    async def start(self) -> None:
        await self._responder.start()

    async def play(self, request: EpisodeRequest) -> tuple[Trajectory, float]:
        return await self._responder.play(request), 0.0

    async def close(self) -> None:
        await self._responder.close()


class ChatPolicy:
    """A model at an endpoint. Its prompt explains the rules even if the recipe's prompt leaves them out."""

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
    """The tokenizer of the recipe's policy; episodes are counted in its tokens.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    checkpoint = locate_checkpoint(config.policy.checkpoint, config.run.folder / ".cache")
    return read_tokenizer(checkpoint)
