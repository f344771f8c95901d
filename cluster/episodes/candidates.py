"""The candidates of a run: their cards, and the local server that answers for them if the recipe asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from actors.pool.cards import ModelCard, check_names, find_pool, load_cards
from benchmarks.world.experts import Cohort, experts
from benchmarks.world.process import spawn_server, stop_server
from benchmarks.world.recorded import recorded_cards
from cluster.config.settings import CandidateSettings, Config
from rewards.cost import derived_cost_scale_usd
from rewards.settings import RewardSettings


@dataclass(frozen=True, slots=True)
class Candidates:
    """The candidates of training, and the unseen ones, which only evaluation shows, if any."""

    cards: tuple[ModelCard, ...]
    unseen: tuple[ModelCard, ...] = ()
    unseen_join: bool = False  # the unseen are shown with the others, as in the paper; else alone, as in the world

    @property
    def all(self) -> tuple[ModelCard, ...]:
        return (*self.cards, *self.unseen)

    @property
    def unseen_menu(self) -> tuple[ModelCard, ...]:
        """The candidates of the evaluation that shows the unseen ones; empty if there are none."""
        return self.all if self.unseen and self.unseen_join else self.unseen

    def price_rewards(self, config: Config) -> RewardSettings:
        """The reward's settings; a cost scale that is not set becomes the most USD that an episode here can cost."""
        rewards = config.rewards
        if rewards.cost_scale_usd is not None:
            return rewards
        scale = derived_cost_scale_usd(
            [(card.price_in_usd_per_mtok, card.price_out_usd_per_mtok) for card in self.all],
            prompt_tokens=config.episode.max_turn_tokens,  # the policy writes a call's prompt in one turn
            completion_tokens=config.episode.max_reply_tokens,
            rounds=config.episode.max_rounds,
        )
        return replace(rewards, cost_scale_usd=scale)


@contextmanager
def start_candidates(config: Config) -> Iterator[Candidates]:
    """Start the local server, if any, and stop it at the end.

    Raises:
        ServerError: the server did not start.
        CardError, RepliesError: the cards or replies can't be used.
    """
    settings = config.candidates
    if settings.serve == "none":
        assert settings.pool.cards is not None  # the configuration refuses None
        found = Candidates(
            _load(settings.pool.cards, settings),
            _load(settings.unseen_cards, settings) if settings.unseen_cards else (),
            unseen_join=True,
        )
        check_names(found.all, f"{settings.pool.cards} with candidates.unseen_cards={settings.unseen_cards}")
        yield found
        return
    process, base_url = spawn_server(_arguments(settings))
    try:
        yield _served_cards(settings, base_url)
    finally:
        stop_server(process)


def _load(cards: Path, settings: CandidateSettings) -> tuple[ModelCard, ...]:
    loaded = load_cards(find_pool(cards))
    if settings.pool.base_url is not None:
        loaded = [card.model_copy(update={"base_url": settings.pool.base_url}) for card in loaded]
    return tuple(loaded)


def _served_cards(settings: CandidateSettings, base_url: str) -> Candidates:
    if settings.serve == "recorded":
        assert settings.replies is not None  # the configuration refuses None
        return Candidates(tuple(recorded_cards(settings.replies, base_url)))

    def cast(cohort: Cohort) -> tuple[ModelCard, ...]:
        return tuple(expert.card(base_url) for expert in experts(cohort))

    return Candidates(cast("seen"), cast("unseen"))


def _arguments(settings: CandidateSettings) -> list[str]:
    """The server's command line."""
    mode = ["world"] if settings.serve == "world" else ["recorded", "--replies", str(settings.replies)]
    set_faults = settings.faults.model_dump(exclude={"seed"}, exclude_defaults=True)
    faults = [f"{name}={value}" for name, value in set_faults.items()]
    return [
        *mode,
        "--latency-scale",
        str(settings.latency_scale),
        *(("--lognormal", *map(str, settings.latency_lognormal)) if settings.latency_lognormal else ()),
        *(part for fault in faults for part in ("--fault", fault)),
        "--fault-seed",
        str(settings.faults.seed),
    ]
