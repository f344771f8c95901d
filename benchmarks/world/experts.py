"""The world's experts: their knowledge, prices and replies."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from actors.pool.cards import ModelCard
from benchmarks.world.facts import DOMAINS, Hop, World, stable_unit

if TYPE_CHECKING:
    from benchmarks.world.server import Answer

Cohort = Literal["seen", "unseen"]
Role = Literal["dear", "cheap", "generalist", "decoy"]

# Descriptors of the dear and the cheap expert of each domain, in the order of DOMAINS.
_SPECIALISTS = (
    ("geologist", "rockhound"),
    ("astronomer", "stargazer"),
    ("botanist", "gardener"),
    ("composer", "busker"),
    ("historian", "antiquarian"),
    ("chef", "cook"),
)
PROFESSIONS: tuple[tuple[str, str | None], ...] = (
    *((name, domain) for domain, pair in zip(DOMAINS, _SPECIALISTS, strict=True) for name in pair),
    ("polymath", None),
    ("clairvoyant", None),
)
GENERALIST = "polymath"
SPECIALISTS_OF = dict(zip(DOMAINS, _SPECIALISTS, strict=True))
PRICES = tuple(range(1, 41))
LATENCIES = tuple(range(1, 10))

# For each domain, of its dear expert: output price (USD per million tokens), style of reply and competence; then the
# cheap expert's competence. The higher the dear expert's price among experts of one style, the smaller the cheap
# expert's deficit. So the α from which the cheap expert is the better choice differs by domain, and the cost of the
# best policy changes gradually with α.
_DEAR: dict[Cohort, tuple[tuple[int, str, float, float], ...]] = {
    "seen": (
        (30, "wordy", 0.95, 0.93),
        (24, "wordy", 0.95, 0.92),
        (19, "wordy", 0.95, 0.91),
        (39, "plain", 0.95, 0.90),
        (32, "plain", 0.95, 0.89),
        (26, "plain", 0.95, 0.88),
    ),
    "unseen": (
        (33, "wordy", 0.93, 0.91),
        (22, "wordy", 0.94, 0.91),
        (20, "wordy", 0.96, 0.91),
        (37, "plain", 0.94, 0.88),
        (33, "plain", 0.96, 0.89),
        (24, "plain", 0.95, 0.87),
    ),
}
_OUTSIDE = 0.12  # competence of a specialist in another's domain
_REPLIES = {
    "terse": "it is {answer} .",
    "plain": "the {query} is {answer} .",
    "wordy": "as every {profession} should know , my records agree on this : the {query} is {answer} .",
}


@dataclass(frozen=True, slots=True)
class Expert:
    """A candidate of the world; it always gives the same reply to a question."""

    name: str
    profession: str
    role: Role
    price_in: float  # USD per million tokens
    price_out: float  # USD per million tokens
    latency_s: float  # median
    style: str  # of its replies, a key of _REPLIES
    competence: dict[str, float]  # by domain: probability of a right answer

    def answers_rightly(self, hop: Hop, world: World) -> bool:
        """Difficulty belongs to the question: a more competent expert is right wherever a less competent one is."""
        return world.difficulty(hop) < self.competence[hop.domain]

    def answer(self, hop: Hop, world: World) -> str:
        return world.fact(hop) if self.answers_rightly(hop, world) else world.plausible(hop, self.name)

    def reply(self, hop: Hop | None, world: World) -> str:
        """A sentence in the expert's style, which determines its length and so its cost."""
        if hop is None:
            return "i cannot say ."
        return _REPLIES[self.style].format(answer=self.answer(hop, world), query=hop.query, profession=self.profession)

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6

    def card(self, base_url: str) -> ModelCard:
        return ModelCard(
            name=self.name,
            descriptor=self.profession,
            base_url=base_url,
            price_in_usd_per_mtok=self.price_in,
            price_out_usd_per_mtok=self.price_out,
            latency_s=self.latency_s,
            max_output_tokens=64,
        )


def experts(cohort: Cohort = "seen") -> list[Expert]:
    """The pool: two specialists for each domain, a generalist and a decoy.

    `unseen` is a second cast for evaluation: other people of the same professions, with other prices and competences.
    """
    rng = random.Random(f"experts-{cohort}")
    flat = dict.fromkeys(DOMAINS, _OUTSIDE)
    pool = []
    for (domain, (dear, cheap)), (price, style, best, nearly) in zip(
        SPECIALISTS_OF.items(), _DEAR[cohort], strict=True
    ):
        pool.append(Expert(f"{cohort}-{dear}", dear, "dear", 2, price, rng.randint(2, 5), style, flat | {domain: best}))
        cheap_price = rng.choice((3, 4))
        pool.append(
            Expert(f"{cohort}-{cheap}", cheap, "cheap", 1, cheap_price, rng.randint(1, 3), "terse",
                   flat | {domain: nearly})
        )  # fmt: skip
    broad = dict.fromkeys(DOMAINS, 0.76 if cohort == "seen" else 0.74)
    pool.append(Expert(f"{cohort}-{GENERALIST}", GENERALIST, "generalist", 2, 16, 3, "plain", broad))
    poor = dict.fromkeys(DOMAINS, 0.3)
    pool.append(Expert(f"{cohort}-clairvoyant", "clairvoyant", "decoy", 2, 12, 2, "wordy", poor))
    return pool


def experts_of(cards: Iterable[ModelCard]) -> list[Expert]:
    """The experts that the cards name, from both casts, with the cards' prices.

    Raises:
        KeyError: no expert has a card's name.
    """
    known = {expert.name: expert for expert in (*experts("seen"), *experts("unseen"))}
    return [
        replace(known[card.name], price_in=card.price_in_usd_per_mtok, price_out=card.price_out_usd_per_mtok)
        for card in cards
    ]


class WorldAnswerer:
    """The world's experts, both casts, behind the candidate server (see `server.Answerer`)."""

    def __init__(self, seed: int = 0) -> None:
        self.world = World(seed)
        self._experts = {expert.name: expert for expert in (*experts("seen"), *experts("unseen"))}
        self.models = tuple(self._experts)
        self._calls = 0

    def answer(self, model: str, query: str, question_id: str | None) -> Answer:
        """Answer a sub-question of the form `relation of entity`.

        Raises:
            UnknownModel: there is no such expert.
        """
        from benchmarks.world.server import Answer, UnknownModel

        expert = self._experts.get(model)
        if expert is None:
            raise UnknownModel(model)
        text = expert.reply(self.world.parse_query(query), self.world)
        self._calls += 1
        return Answer(text, count_tokens(text), count_tokens(query), draw_latency(expert, self._calls))


def count_tokens(text: str) -> int:
    """The number of words and punctuation marks, which the world's experts bill as tokens."""
    return len(text.split())


def draw_latency(expert: Expert, call: int) -> float:
    """Latency of a server's n-th call in seconds: lognormal around the expert's median (σ = 0.5)."""
    unit = min(max(stable_unit("latency", expert.name, call), 1e-6), 1 - 1e-6)
    return expert.latency_s * math.exp(0.5 * NormalDist().inv_cdf(unit))
