"""The evaluation's target: the policy that is evaluated, and the candidates that it was trained with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from actors.api_keys import read_option_key
from actors.pool.cards import CardError, ModelCard
from benchmarks.evaluation.pool_fingerprint import difference
from benchmarks.world.recorded import RepliesError
from cluster.config.loading import ConfigError, load_config
from cluster.config.settings import Config
from cluster.episodes.candidates import trained_cards
from cluster.evaluation.options import EvaluateError, EvaluationOptions
from cluster.players.players import ChatEndpoint
from cluster.players.responder import PolicySource, open_source

_CHAT_CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class Target:
    """A policy to evaluate: a checkpoint or a model at an endpoint, and the configuration that it plays under."""

    config: Config
    name: str  # for people
    source: PolicySource | None = None
    endpoint: ChatEndpoint | None = None

    @property
    def identity(self) -> str:
        """What plays, so that another one does not go on with its items."""
        if self.endpoint is not None:
            return f"{self.endpoint.model} at {self.endpoint.url}"
        assert self.source is not None
        return str(self.source.checkpoint)

    @property
    def file_name(self) -> str:
        return re.sub(r"[^\w.-]+", "-", self.name)

    @property
    def concurrency(self) -> int:
        return _CHAT_CONCURRENCY if self.endpoint is not None else self.config.engine.max_num_seqs


def open_target(options: EvaluationOptions) -> Target:
    """Find the policy.

    Raises:
        RunFolderError, ConfigError: there is no such run or checkpoint, or its configuration can't be used.
        EvaluateError: the key's variable is not set.
    """
    if not options.is_url:
        source = open_source(options.target, options.recipe, options.overrides)
        return Target(source.config, source.name, source=source)
    assert options.model is not None
    endpoint = ChatEndpoint(
        url=options.target,
        model=options.model,
        key=read_option_key(options.api_key_env, EvaluateError),
        timeout_s=options.timeout_s,
        price_in=options.price_in,
        price_out=options.price_out,
    )
    name = f"{options.model}-{urlsplit(options.target).netloc}"
    return Target(load_config(options.recipe, options.overrides), name, endpoint=endpoint)


def pool_notes(target: Target, cards: tuple[ModelCard, ...]) -> list[str]:
    """What is to be said of the pool: that it is not the one trained with, or that this is not known."""
    if target.source is None:
        return []
    if target.source.run is None:
        return ["the checkpoint belongs to no run, so that the candidates it was trained with are not known"]
    try:
        trained = trained_cards(load_config(str(target.source.run / "config.yaml")))
    except (CardError, RepliesError, ConfigError, OSError) as error:
        return [f"the candidates that the policy was trained with can't be read ({error})"]
    changes = difference(cards, trained)
    return [f"the candidates are not those that the policy was trained with: {'; '.join(changes)}"] if changes else []
