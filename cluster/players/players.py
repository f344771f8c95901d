"""The policy under evaluation: a checkpoint on an engine or a model at an endpoint, in the episodes of training."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.checkpoint_loading import read_tokenizer
from actors.episodes.episode import Episode, EpisodeRequest
from actors.episodes.remote_model import Conversation, RemoteModel, RemoteModelRefusal
from actors.episodes.trajectory import Trajectory
from actors.pool.caller import CandidateCaller
from actors.pool.cards import ModelCard
from cluster.config.settings import Config
from cluster.episodes.requests import readable_rules
from cluster.players.responder import PolicySource, Responder
from cluster.runs.policy_checkpoints import locate_checkpoint
from rewards.transcript import Turn


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """A model that plays the policy over an OpenAI-compatible endpoint. Prices are USD per million tokens."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)  # never shown
    timeout_s: float = 120.0
    price_in: float = 0.0
    price_out: float = 0.0


@dataclass(frozen=True, slots=True)
class PlayedEpisode:
    """An episode that was played."""

    trajectory: Trajectory
    usd: float = 0.0  # that the policy's own tokens cost
    conversation: Conversation | None = None  # with the policy's model, where it is one at an endpoint


class Refused(RuntimeError):
    """The policy's model rejected a prompt; the error holds the episode so far, its tokens and their price in USD."""

    def __init__(
        self,
        why: str,
        turns: Sequence[Turn] = (),
        *,
        tokens: int = 0,
        usd: float = 0.0,
        conversation: Conversation | None = None,
    ) -> None:
        super().__init__(why)
        self.turns, self.tokens, self.usd, self.conversation = tuple(turns), tokens, usd, conversation


class Policy(Protocol):
    """Plays episodes between `start` and `close`; a start that fails leaves nothing behind."""

    async def start(self) -> None: ...

    async def play(self, request: EpisodeRequest) -> PlayedEpisode:
        """Play an episode.

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

    async def play(self, request: EpisodeRequest) -> PlayedEpisode:
        return PlayedEpisode(await self._responder.play(request))

    async def close(self) -> None:
        await self._responder.close()


class ChatPolicy:
    """A model at an endpoint. Its prompt explains the rules even if the recipe's prompt leaves them out."""

    def __init__(self, endpoint: ChatEndpoint, config: Config, caller: CandidateCaller) -> None:
        self._endpoint, self._config, self._caller = endpoint, config, caller
        self._model = RemoteModel(endpoint.url, endpoint.model, key=endpoint.key, timeout_s=endpoint.timeout_s)
        self.tokenizer: Any = None  # of the recipe's policy, once it has started

    async def start(self) -> None:
        try:
            await self._caller.check()
            self.tokenizer = await asyncio.to_thread(load_tokenizer, self._config)
        except BaseException:
            await self.close()
            raise

    async def play(self, request: EpisodeRequest) -> PlayedEpisode:
        config, endpoint = self._config, self._endpoint
        talk = Conversation(self._model, self.tokenizer, request.prompt(readable_rules(config.episode)))
        episode = Episode(
            request,
            tokenizer=self.tokenizer,
            generate=talk.generate,
            ask=self._caller.ask,
            settings=config.episode,
            max_model_len=config.engine.max_model_len,
            observer=talk,
        )

        def usd() -> float:
            return (talk.prompt_tokens * endpoint.price_in + talk.completion_tokens * endpoint.price_out) / 1e6

        try:
            trajectory = await episode.run()
        except RemoteModelRefusal as error:
            begun = episode.so_far()
            tokens = sum(begun.buffer.sampled)
            raise Refused(str(error), begun.turns, tokens=tokens, usd=usd(), conversation=talk) from error
        return PlayedEpisode(trajectory, usd(), talk)

    async def close(self) -> None:
        try:
            await self._caller.close()
        finally:
            await self._model.close()


def load_tokenizer(config: Config) -> Any:
    """The tokenizer of the recipe's policy; episodes are counted in its tokens.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    checkpoint = locate_checkpoint(config.policy.checkpoint, config.run.folder / ".cache")
    return read_tokenizer(checkpoint)
