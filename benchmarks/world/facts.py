"""The facts of the world: invented entities, facts about them, and questions about these facts."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from actors.questions import Question

Split = Literal["train", "heldout"]

# Relations by domain. Every entity has every relation.
DOMAINS: dict[str, tuple[str, ...]] = {
    "geology": ("mineral", "crystal", "volcano"),
    "astronomy": ("star", "comet", "moon"),
    "botany": ("flower", "tree", "herb"),
    "music": ("song", "opera", "drum"),
    "history": ("king", "battle", "treaty"),
    "cuisine": ("dish", "spice", "wine"),
}
DOMAIN_OF = {relation: domain for domain, relations in DOMAINS.items() for relation in relations}

ENTITY_SYLLABLES = tuple(a + b for a, b in itertools.product("fglnrstv", "aeiou"))
HELDOUT_EVERY = 5  # training questions never ask about one entity in five


@dataclass(frozen=True, slots=True)
class Hop:
    """One sub-question: the `relation` of `entity`."""

    relation: str
    entity: str

    @property
    def domain(self) -> str:
        return DOMAIN_OF[self.relation]

    @property
    def query(self) -> str:
        return f"{self.relation} of {self.entity}"


def stable_unit(*key: object) -> float:
    """A pseudo-random number in [0, 1) that depends on the key alone: it is the same in every process and run."""
    digest = hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


class World:
    """The entities and facts that a seed defines.

    Answers about an entity are entities of the same split, so that a two-hop question about a training entity never
    involves a held-out entity, nor the other way round.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        names = [a + b for a, b in itertools.product(ENTITY_SYLLABLES, repeat=2) if a != b]
        random.Random(f"entities-{seed}").shuffle(names)
        self.entities: dict[Split, list[str]] = {
            "heldout": names[::HELDOUT_EVERY],
            "train": [name for index, name in enumerate(names) if index % HELDOUT_EVERY],
        }
        self._split_of = {name: split for split, members in self.entities.items() for name in members}

    def fact(self, hop: Hop) -> str:
        """The true answer to a sub-question.

        Raises:
            KeyError: the world has no such entity.
        """
        return self._draw(hop, "fact", excluded=(hop.entity,))

    def plausible(self, hop: Hop, expert: str) -> str:
        """A wrong answer of the right kind; the same expert always gives the same."""
        return self._draw(hop, f"wrong-{expert}", excluded=(hop.entity, self.fact(hop)))

    def difficulty(self, hop: Hop) -> float:
        """How hard a sub-question is, in [0, 1): an expert whose competence is higher answers it rightly."""
        return stable_unit(self.seed, "difficulty", hop.query)

    def parse_query(self, query: str) -> Hop | None:
        """Find a relation and an entity in a query; None if it lacks either."""
        words = query.lower().replace("?", " ").split()
        relations = [word for word in words if word in DOMAIN_OF]
        entities = [word for word in words if word in self._split_of]
        return Hop(relations[0], entities[-1]) if relations and entities else None

    def questions(self, split: Split, seed: int, two_hop_share: float) -> Iterator[tuple[Question, tuple[Hop, ...]]]:
        """Draw distinct questions without end, each with its hops; `two_hop_share` of them have two.

        The first hop of a two-hop question asks for an entity, and the second asks about that entity.
        """
        rng = random.Random(f"questions-{self.seed}-{split}-{seed}")
        seen: set[str] = set()
        while True:
            first = Hop(rng.choice(list(DOMAIN_OF)), rng.choice(self.entities[split]))
            hops: tuple[Hop, ...] = (first,)
            if rng.random() < two_hop_share:
                hops = (first, Hop(rng.choice(list(DOMAIN_OF)), self.fact(first)))
            text = question_text(hops)
            if text in seen:
                continue
            seen.add(text)
            identity = f"{split}-{text.removeprefix('what is the ').removesuffix(' ?').replace(' ', '-')}"
            yield Question(identity, f"world-{len(hops)}hop", text, (self.fact(hops[-1]),)), hops

    def _draw(self, hop: Hop, purpose: str, excluded: tuple[str, ...]) -> str:
        pool = self.entities[self._split_of[hop.entity]]
        index = int(stable_unit(self.seed, purpose, hop.relation, hop.entity) * len(pool))
        while pool[index] in excluded:
            index = (index + 1) % len(pool)
        return pool[index]


def question_text(hops: tuple[Hop, ...]) -> str:
    """A question for the last hop's answer that names only the first hop's entity."""
    inner = hops[0].query if len(hops) == 1 else f"{hops[1].relation} of the {hops[0].query}"
    return f"what is the {inner} ?"


def hops_of(question: str, world: World) -> tuple[Hop, ...]:
    """The hops of a question's text; the inverse of `question_text`.

    Raises:
        ValueError: the text is no question of this world.
        KeyError: the world has no such entity, in a two-hop question.
    """
    words = [word for word in question.removesuffix("?").split() if word not in ("what", "is", "the", "of")]
    if not (2 <= len(words) <= 3) or any(word not in DOMAIN_OF for word in words[:-1]):
        raise ValueError(f"{question!r} is no question of this world; they read 'what is the mineral of lanu ?'")
    first = Hop(words[-2], words[-1])
    return (first,) if len(words) == 2 else (first, Hop(words[0], world.fact(first)))
