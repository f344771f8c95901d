"""Pool variants: the candidates that a policy is evaluated with besides those that it was trained with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from actors.episodes.menu import Renaming
from actors.pool.cards import ModelCard, resolve
from actors.questions import Question
from benchmarks.evaluation.pool_fingerprint import fingerprint
from benchmarks.evaluation.protocol import Pass
from benchmarks.world.experts import PRICES
from cluster.config.settings import Config
from cluster.episodes.candidates import Candidates
from cluster.evaluation.episodes import EvaluationEpisode, episodes_of
from cluster.evaluation.options import EvaluateError
from cluster.evaluation.repricing import PriceFactors

Kind = Literal["seen", "unseen", "unseen-unmeasured", "without", "price"]
SEEN = "seen"
_FORMS = "seen, unseen, unseen-unmeasured, without:NAME, price:NAME=FACTOR"


@dataclass(frozen=True, slots=True)
class Wish:
    """A variant as it was asked for."""

    kind: Kind
    text: str  # as it was typed
    name: str = ""  # of a candidate, or an alias
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class PoolVariant:
    """The candidates that some episodes are shown."""

    label: str  # such as `price:NAME=2`
    cards: tuple[ModelCard, ...]  # as the policy reads them
    names: Renaming = "seen"  # under which invented names they are shown, where the recipe invents some
    factors: PriceFactors = field(default_factory=dict)  # on prices that calls cost
    notes: tuple[str, ...] = ()

    def row(self, name: str) -> str:
        """The name of a row that is made with these candidates."""
        return name if self.label == SEEN else f"{name} @ {self.label}"


def read_wishes(texts: Sequence[str]) -> list[Wish]:
    """The variants that `--pool` names.

    Raises:
        EvaluateError: one is unknown or malformed.
    """
    return [_read_wish(text.strip()) for text in texts]


def make_variants(wishes: Sequence[Wish], candidates: Candidates, *, whole_dollars: bool) -> list[PoolVariant]:
    """The variants, each once, `seen` always and first: the others are compared with it.

    Args:
        whole_dollars: the policy is the world's, which reads whole dollars from $1 to $40 and no other price.

    Raises:
        EvaluateError: a candidate is not in the pool, is the last one, or can't have that price; or the recipe has no
            unseen candidates.
    """
    made = [PoolVariant(SEEN, candidates.cards)]
    for wish in wishes:
        if wish.kind == "without":
            made.append(_without(wish, candidates.cards))
        elif wish.kind == "price":
            made.append(_repriced(wish, candidates.cards, whole_dollars))
        elif wish.kind != SEEN:
            made.append(_unseen(wish, candidates))
    return list({variant.label: variant for variant in made}.values())


def cards_to_ask(variants: Sequence[PoolVariant], candidates: Candidates) -> tuple[ModelCard, ...]:
    """Every candidate that one of the variants shows, as its own card tells of it."""
    shown = {card.name for variant in variants for card in variant.cards}
    return tuple(card for card in candidates.all if card.name in shown)


def variant_episodes(
    config: Config, passes: Sequence[Pass], questions: Sequence[Question], variant: PoolVariant
) -> list[EvaluationEpisode]:
    """The episodes of an evaluation with these candidates: a question has the same seeds whatever the variant, but
    rows and places in the ledger are the variant's own."""
    found = episodes_of(config, passes, questions, variant.cards, variant.names)
    if variant.label == SEEN:
        return found
    return [
        EvaluationEpisode(
            (variant.row(each.key[0]), *each.key[1:]),
            replace(each.request, group=f"{each.request.group}@{variant.label}"),
            variant.factors,
        )
        for each in found
    ]


def asked_of(variants: Sequence[PoolVariant]) -> dict[str, dict[str, str]]:
    """What the variants add to what makes an evaluation this one: nothing, where there is only `seen`."""
    others = {variant.label: fingerprint(variant.cards) for variant in variants if variant.label != SEEN}
    return {"pools": others} if others else {}


def _read_wish(text: str) -> Wish:
    if text in ("seen", "unseen", "unseen-unmeasured"):
        return Wish(text, text)  # type: ignore[arg-type]
    kind, _, rest = text.partition(":")
    if kind == "without" and rest.strip():
        return Wish("without", text, rest.strip())
    if kind != "price":
        raise EvaluateError(f"--pool {text}: unknown; give one of {_FORMS}")
    name, _, told = rest.rpartition("=")
    if not name.strip():
        raise EvaluateError(f"--pool {text}: give price:NAME=FACTOR, such as price:NAME=2")
    try:
        factor = float(told)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise EvaluateError(f"--pool {text}: factor {told!r} must be a number above 0, such as 2 or 0.5")
    return Wish("price", text, name.strip(), factor)


def _find(wish: Wish, cards: Sequence[ModelCard]) -> ModelCard:
    card = resolve(wish.name, cards)
    if card is None:
        names = ", ".join(card.name for card in cards)
        raise EvaluateError(f"--pool {wish.text}: no candidate {wish.name!r} in the pool; there are {names}")
    return card


def _without(wish: Wish, cards: Sequence[ModelCard]) -> PoolVariant:
    gone = _find(wish, cards)
    if len(cards) == 1:
        raise EvaluateError(f"--pool {wish.text}: {gone.name} is the only candidate, and somebody must be left to ask")
    return PoolVariant(f"without:{gone.name}", tuple(card for card in cards if card.name != gone.name))


def _repriced(wish: Wish, cards: Sequence[ModelCard], whole_dollars: bool) -> PoolVariant:
    old = _find(wish, cards)
    if old.free:
        raise EvaluateError(f"--pool {wish.text}: {old.name} is free, and no factor changes that; name another")
    prices = {"price_in_usd_per_mtok": old.price_in_usd_per_mtok, "price_out_usd_per_mtok": old.price_out_usd_per_mtok}
    new = old.model_copy(update={name: price * wish.factor for name, price in prices.items()})
    notes: tuple[str, ...] = ()
    label = f"price:{old.name}={wish.factor:g}"
    if whole_dollars:
        before, now = (f"{card.price_out_usd_per_mtok:.0f}" for card in (old, new))
        if int(now) not in PRICES:
            raise EvaluateError(
                f"--pool {wish.text}: {old.name} would cost ${now} instead of ${before}, and the world's policy reads "
                f"whole dollars from ${PRICES[0]} to ${PRICES[-1]}; give another factor"
            )
        if now == before:
            notes = (f"`{label}`: the prompt tells whole dollars, so the policy reads ${now} as before",)
    changed = tuple(new if card.name == old.name else card for card in cards)
    return PoolVariant(label, changed, factors={old.name: wish.factor}, notes=notes)


def _unseen(wish: Wish, candidates: Candidates) -> PoolVariant:
    if not candidates.unseen:
        raise EvaluateError(
            f"--pool {wish.text}: the recipe has no unseen candidates; name their cards with --set "
            "candidates.unseen_cards=FILE (for candidates.serve=none)"
        )
    if wish.kind == "unseen":
        return PoolVariant("unseen", candidates.unseen_menu, "unseen")
    names = {card.name for card in candidates.unseen}
    cards = tuple(
        card.model_copy(update={"domains": {}}) if card.name in names else card for card in candidates.unseen_menu
    )
    notes: tuple[str, ...] = ()
    if not any(card.domains for card in candidates.unseen):
        notes = ("no card of the unseen candidates tells a measured accuracy, so `unseen-unmeasured` is as `unseen`",)
    return PoolVariant("unseen-unmeasured", cards, "unseen", notes=notes)
