"""The candidates of a run: their cards, the server that answers for them, and the ledger of their calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from actors.ledger.database import prepare_ledger
from actors.pool.cards import CardError, ModelCard, check_names, find_pool, load_cards
from actors.pool.settings import PoolSettings
from benchmarks.world.experts import Cohort, experts
from benchmarks.world.process import spawn_server, stop_server
from benchmarks.world.recorded import RepliesError, recorded_cards
from cluster.config.settings import CandidateSettings, Config
from cluster.runs.record import RunRecord, setting
from rewards.cost import derived_cost_scale_usd
from rewards.settings import RewardSettings

_NOWHERE = "http://127.0.0.1:1/v1"  # of cards that are read or compared; nobody is asked there
_COHORTS: tuple[Cohort, ...] = ("seen", "unseen")


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
    files = settings.pool.cards, settings.unseen_cards, settings.replies
    if settings.serve == "none":
        found = _read_cards(settings.serve, *files, settings.pool.base_url)
        check_names(found.all, f"{settings.pool.cards} with candidates.unseen_cards={settings.unseen_cards}")
        yield found
        return
    process, base_url = spawn_server(_arguments(settings))
    try:
        yield _read_cards(settings.serve, *files, base_url)
    finally:
        stop_server(process)


def trained_cards(config: Config) -> list[ModelCard]:
    """The cards of training that a configuration names, as they are now; no server is started.

    Raises:
        CardError, RepliesError: the cards or replies can't be read.
    """
    settings = config.candidates
    return list(_read_cards(settings.serve, settings.pool.cards, None, settings.replies).cards)


@dataclass(frozen=True, slots=True)
class RunCards:
    """Cards by name, as they are now: those of training, those that training never saw, and a note on them."""

    seen: Mapping[str, ModelCard] = field(default_factory=dict)
    unseen: Mapping[str, ModelCard] = field(default_factory=dict)
    note: str = "Prices are those of the cards as they are now."

    @property
    def all(self) -> dict[str, ModelCard]:
        return {**self.seen, **self.unseen}


def run_cards(record: RunRecord) -> RunCards:
    """The cards that a run's configuration names, even if this version would refuse that configuration.

    If the cards can't be read, there are none, and the note says why.
    """

    def file(key: str) -> Path | None:
        named = setting(record.config, f"candidates.{key}")
        return Path(named) if named else None

    serve = setting(record.config, "candidates.serve")
    try:
        found = _read_cards(serve, file("pool.cards"), file("unseen_cards"), file("replies"))
    except (CardError, RepliesError, OSError) as error:
        return RunCards(note=f"Prices are not known, because the cards can't be read: {error}")
    return RunCards({card.name: card for card in found.cards}, {card.name: card for card in found.unseen})


def _read_cards(
    serve: str, cards: Path | None, unseen: Path | None, replies: Path | None, base_url: str | None = None
) -> Candidates:
    """The cards that settings name. If `base_url` is given, all are called there; otherwise cards from files keep their
    own URL, and the others can't be called."""
    if serve == "world":
        seen, others = (tuple(e.card(base_url or _NOWHERE) for e in experts(cohort)) for cohort in _COHORTS)
        return Candidates(seen, others)
    if serve == "recorded" and replies:
        return Candidates(tuple(recorded_cards(replies, base_url or _NOWHERE)))

    def load(file: Path | None) -> tuple[ModelCard, ...]:
        found = load_cards(find_pool(file)) if file else []
        return tuple(card.model_copy(update={"base_url": base_url}) if base_url else card for card in found)

    return Candidates(load(cards), load(unseen), unseen_join=True)


class Books(NamedTuple):
    """The ledger that records calls, None if nothing does, and the run under which it records them."""

    ledger_url: str | None = None
    run: str = ""


def open_books(pool: PoolSettings, ledger: Path, run: Callable[[], str]) -> Books:
    """The books of calls outside training: in the file `ledger`, unless the settings name another or turn it off.

    Args:
        run: gives the run's id; it is only called if there is a ledger.

    Raises:
        LedgerError: the ledger's folder can't be made.
    """
    if pool.ledger == "off":
        return Books()
    return Books(pool.ledger_url or prepare_ledger(ledger), run())


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
