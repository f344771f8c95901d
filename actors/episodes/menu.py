"""The menu: the candidates of one prompt, in the order and under the names that the prompt shows."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from actors.pool.cards import ModelCard

Renaming = Literal["off", "seen", "unseen"]

_SYLLABLES = tuple(a + b for a, b in itertools.product("bdkmz", "aeiou"))
# Training shows only the first 44 names; the others are for evaluation under names that training never showed.
INVENTED_NAMES = tuple(random.Random("names").sample([a + b for a, b in itertools.permutations(_SYLLABLES, 2)], 64))
_SEEN, _UNSEEN = INVENTED_NAMES[:44], INVENTED_NAMES[44:]


@dataclass(frozen=True, slots=True)
class MenuItem:
    """A candidate under the name that this prompt gives it."""

    name: str
    card: ModelCard


@dataclass(frozen=True, slots=True)
class Menu:
    """The candidates of one prompt, in the order shown."""

    items: tuple[MenuItem, ...]

    def find(self, name: str) -> MenuItem | None:
        """The candidate of that name or alias, ignoring case; None if there is none.

        A renamed candidate is not found by its own name or aliases, because the policy can't know them.
        """
        wanted = name.strip().casefold()
        for item in self.items:
            known = (item.name, *(item.card.aliases if item.name == item.card.name else ()))
            if wanted in (n.casefold() for n in known):
                return item
        return None


def draw_menu(cards: Sequence[ModelCard], seed: float | str, *, shuffle: bool, rename: Renaming = "off") -> Menu:
    """Lay out the cards for one prompt; all episodes of a group share the seed, and therefore the menu.

    Raises:
        ValueError: there are more candidates than invented names.
    """
    rng = random.Random(f"menu-{seed}")
    shown = list(cards)
    if shuffle:
        rng.shuffle(shown)
    names = [card.name for card in shown] if rename == "off" else _invent(len(shown), rename == "unseen", rng)
    return Menu(tuple(MenuItem(name, card) for name, card in zip(names, shown, strict=True)))


def _invent(count: int, unseen: bool, rng: random.Random) -> list[str]:
    names = _UNSEEN if unseen else _SEEN
    if count > len(names):
        raise ValueError(
            f"can't invent names for {count} candidates, only for {len(names)}; set episode.rename_cards=false"
        )
    return rng.sample(names, count)
