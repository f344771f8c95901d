"""The evaluation's target: what is evaluated, by which options, and whether these go together."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from actors.pool.cards import CardError, ModelCard, find_pool, load_cards
from benchmarks.pool_fingerprint import difference
from benchmarks.protocol import Name
from benchmarks.statistics import RESAMPLES
from benchmarks.world.experts import experts
from benchmarks.world.recorded import RepliesError, recorded_cards
from cluster.config import Config, ConfigError, load_config
from cluster.evaluation_policy import Endpoint, EvaluateError
from cluster.responder import PolicySource, open_source

RECORDED, WORLD = "recorded:", "world"
_NOWHERE = "http://127.0.0.1:1/v1"  # cards are compared; nobody is asked
_CHAT_CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is to be evaluated, and how."""

    target: str
    datasets: tuple[str, ...] = ()
    protocol: Name = "paper"
    samples: int | None = None
    limit: int | None = None  # questions of each set
    baselines: tuple[str, ...] = ("all",)
    lambdas: tuple[float, ...] = (0.0,)
    seed: int = 0  # of the baselines and of the split of recorded replies
    out: Path | None = None
    recipe: str = "quickstart"
    overrides: tuple[str, ...] = ()
    model: str | None = None  # at a URL
    api_key_env: str | None = None
    price_in: float = 0.0  # that model's USD per million tokens
    price_out: float = 0.0
    timeout_s: float = 120.0
    concurrency: int | None = None  # episodes at a time; as many as the engine takes, of a URL 16
    ask_everyone: bool = False
    fit_questions: int = 200  # that everyone is asked besides, for baselines to learn from
    max_usd: float = 1.0  # that asking everyone may cost without `yes`
    yes: bool = False
    against: str | None = None  # row that the others are compared with
    published: str = "qwen"
    resamples: int = RESAMPLES

    @property
    def is_url(self) -> bool:
        return "://" in self.target

    @property
    def is_table(self) -> bool:
        """Whether there is no policy: replies are recorded, or follow from the world."""
        return self.target == WORLD or self.target.startswith(RECORDED)

    def check(self) -> None:
        """Check that the options go together.

        Raises:
            EvaluateError: they do not.
        """
        if self.is_url and not self.model:
            raise EvaluateError(f"{self.target} needs --model NAME, the model's name at that endpoint")
        if self.model and not self.is_url:
            raise EvaluateError(f"--model {self.model} goes with a URL, and the target is {self.target}; leave it out")
        given = {
            "--samples": self.samples is not None,
            "--ask-everyone": self.ask_everyone,
            "--set": bool(self.overrides),
        }
        if self.is_table and any(given.values()):
            named = ", ".join(name for name, is_given in given.items() if is_given)
            raise EvaluateError(f"{named} with {self.target}: no policy plays there and nobody is asked; leave it out")


@dataclass(frozen=True, slots=True)
class Target:
    """A policy to evaluate: a checkpoint or a model at an endpoint, and the configuration that it plays under."""

    config: Config
    name: str  # for people
    source: PolicySource | None = None
    endpoint: Endpoint | None = None

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


def open_target(assignment: Assignment) -> Target:
    """Find the policy.

    Raises:
        RunFolderError, ConfigError: there is no such run or checkpoint, or its configuration can't be used.
        EvaluateError: the key's variable is not set.
    """
    if not assignment.is_url:
        source = open_source(assignment.target, assignment.recipe, assignment.overrides)
        return Target(source.config, source.name, source=source)
    assert assignment.model is not None
    endpoint = Endpoint(
        url=assignment.target,
        model=assignment.model,
        key=_read_key(assignment.api_key_env),
        timeout_s=assignment.timeout_s,
        price_in=assignment.price_in,
        price_out=assignment.price_out,
    )
    name = f"{assignment.model}-{urlsplit(assignment.target).netloc}"
    return Target(load_config(assignment.recipe, assignment.overrides), name, endpoint=endpoint)


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


def trained_cards(config: Config) -> list[ModelCard]:
    """The cards that a configuration names, as they are now; no server is started.

    Raises:
        CardError, RepliesError: they can't be read.
    """
    candidates = config.candidates
    if candidates.serve == "world":
        return [expert.card(_NOWHERE) for expert in experts("seen")]
    if candidates.serve == "recorded":
        assert candidates.replies is not None  # the configuration refuses it
        return recorded_cards(candidates.replies, _NOWHERE)
    assert candidates.pool.cards is not None  # the configuration refuses it
    return load_cards(find_pool(candidates.pool.cards))


def _read_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EvaluateError(f"--api-key-env {variable}: not set; export the model's API key in it")
    return key
