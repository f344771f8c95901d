"""Demonstrations for the cold start: right thinking, a rule of choice drawn at random, and its execution.

What they teach is the craft (read the domain, find the cards, copy names and answers). What they do not
teach is the choice: the rule is drawn without regard to its merit, so reinforcement has that to learn. Where the
prompt tells a budget, they read it out before the rule, and which rules it pays for, among which theirs is drawn: a
language model knows what a budget is, and this one does not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from actors.episodes.menu import Menu, MenuItem, draw_menu
from actors.episodes.prompt import COMPACT_BUDGETS_PER_USD, compact_budget, render_information, render_prompt
from actors.pool.cards import ModelCard
from benchmarks.world.experts import GENERALIST, LATENCIES, PRICES, PROFESSIONS, SPECIALISTS_OF, experts
from benchmarks.world.facts import Hop, World

_BUDGETS = (1, 2, 3, 4, 6, 8, 12)  # in hundredths of a cent, as `compact` tells them
_BUDGET_OF_A_DOLLAR = 0.2  # hundredths of a cent that a call costs for each dollar of price: replies of 20 tokens
# Random asking is the commonest rule: before training the policy routes poorly.
RULE_SHARES = {"best": 0.2, "thrifty": 0.2, "broad": 0.2, "any": 0.4}


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a demonstration: what the policy says, or what it reads."""

    text: str
    spoken: bool


@dataclass(frozen=True, slots=True)
class WorldDemonstration:
    """A user message and the pieces that follow it; `rules` is the rule followed at each hop."""

    prompt: str
    pieces: tuple[Piece, ...]
    rules: tuple[str, ...]


def think_and_route(
    hop: Hop, menu: Menu, rule: str, rng: random.Random, known: str = "", budget: str = ""
) -> tuple[str, MenuItem, str]:
    """The policy's words for one hop, the card they lead to, and the rule that they follow.

    `known` is the bridge found before, `budget` as the prompt tells it. Read out, it is followed by the rules whose
    cards it pays for. Of the cards that it pays for `any` is drawn; another rule that is not paid for gives way to one
    that is, or where none is, to the cheapest.
    """
    by_profession = {item.card.descriptor: item for item in menu.items}
    dear, cheap = SPECIALISTS_OF[hop.domain]
    fitting = [by_profession[name] for name in (dear, cheap, GENERALIST)]
    led_to = dict(zip(("best", "thrifty", "broad"), fitting, strict=True))
    read_out = ""
    if budget:
        limit = int(budget.removeprefix("$")) / _BUDGET_OF_A_DOLLAR
        paid = {name: item for name, item in led_to.items() if item.card.price_out_usd_per_mtok <= limit}
        read_out = " ".join([budget, *paid, ". "])
        rule, chosen = _within(limit, rule, led_to, paid, menu, rng)
    else:
        chosen = led_to.get(rule) or rng.choice(menu.items)
    listed = " ".join(f"{item.card.descriptor} {item.name} ${item.card.price_out_usd_per_mtok:.0f}" for item in fitting)
    bridge = f"{known} . " if known else ""
    return (
        f"<think> {bridge}{hop.domain} : {listed} . {read_out}{rule} {chosen.card.descriptor} {chosen.name} </think> "
        f"<search> {chosen.name} : {hop.query} </search>",
        chosen,
        rule,
    )


def _within(
    limit: float,
    rule: str,
    led_to: dict[str, MenuItem],
    paid: dict[str, MenuItem],
    menu: Menu,
    rng: random.Random,
) -> tuple[str, MenuItem]:
    """A rule, and its card, of a price up to `limit`; of those led to the cheapest where it pays for none."""
    if rule == "any":
        anybody = [item for item in menu.items if item.card.price_out_usd_per_mtok <= limit]
        if anybody:
            return rule, rng.choice(anybody)
    if not paid:
        name = min(led_to, key=lambda each: led_to[each].card.price_out_usd_per_mtok)
        return name, led_to[name]
    name = rule if rule in paid else rng.choice(list(paid))
    return name, paid[name]


def demonstrations(
    world: World, seed: int, cards_shown: int | None = None, *, budgets: bool = False
) -> Iterator[WorldDemonstration]:
    """Draw demonstrations without end; `cards_shown` cards a prompt (all, if None), always with those needed.
    `budgets`: each is told one."""
    rng = random.Random(f"demonstrations-{seed}")
    cast = {expert.name: expert for expert in experts()}
    for question, hops in world.questions("train", seed, two_hop_share=0.5):
        menu = draw_menu(
            _cards(rng, hops, cards_shown, spread=budgets),
            rng.random(),
            shuffle=True,
            rename=rng.choice(("seen", "unseen")),
        )
        budget_usd = rng.choice(_BUDGETS) / COMPACT_BUDGETS_PER_USD if budgets else None
        told = compact_budget(budget_usd) if budget_usd is not None else ""
        pieces: list[Piece] = []
        rules: list[str] = []
        hop = hops[0]
        answer = ""
        for index, asked in enumerate(hops):
            # The second hop asks about whatever the first reply named, right or wrong.
            hop = asked if index == 0 else Hop(asked.relation, answer)
            rule = rng.choices(list(RULE_SHARES), list(RULE_SHARES.values()))[0]
            text, chosen, rule = think_and_route(hop, menu, rule, rng, known=answer, budget=told)
            expert = cast[chosen.card.name]
            answer = expert.answer(hop, world)
            pieces += [Piece(text, True), Piece(render_information(expert.reply(hop, world)), False)]
            rules.append(rule)
        pieces.append(Piece(f"<think> {answer} </think> <answer> {answer} </answer>", True))
        prompt = render_prompt("compact", menu, question.text, 4, budget_usd=budget_usd)
        yield WorldDemonstration(prompt, tuple(pieces), tuple(rules))


def drills(world: World, seed: int, cards_shown: int | None = None) -> Iterator[WorldDemonstration]:
    """Draw drills without end: named a profession, say the name and price on its card.

    Looking a card up is the one skill that demonstrations teach slowly, three look-ups each; a drill has up to
    twelve. Once learnt here it serves the demonstrations.
    """
    rng = random.Random(f"drills-{seed}")
    for question, hops in world.questions("train", seed, two_hop_share=0.5):
        menu = draw_menu(
            _cards(rng, hops, cards_shown), rng.random(), shuffle=True, rename=rng.choice(("seen", "unseen"))
        )
        pieces = [Piece("<think>", False)]
        for item in rng.sample(menu.items, min(12, len(menu.items))):
            pieces.append(Piece(item.card.descriptor, False))
            pieces.append(Piece(f"{item.name} ${item.card.price_out_usd_per_mtok:.0f}", True))
        yield WorldDemonstration(render_prompt("compact", menu, question.text, 4), tuple(pieces), ())


def _cards(rng: random.Random, hops: tuple[Hop, ...], shown: int | None, *, spread: bool = False) -> list[ModelCard]:
    """Cards with prices and latencies drawn anew, so that none can be known by heart; `spread`: low prices more often,
    so that small budgets mostly pay for some."""
    weights = [1 / price for price in PRICES]
    needed = {GENERALIST, *(name for hop in hops for name in SPECIALISTS_OF[hop.domain])}
    others = [name for name, _ in PROFESSIONS if name not in needed]
    extra = len(others) if shown is None else max(0, shown - len(needed))
    kept = needed | set(rng.sample(others, min(extra, len(others))))
    return [
        expert.card("http://nowhere.invalid").model_copy(
            update={
                "price_out_usd_per_mtok": rng.choices(PRICES, weights)[0] if spread else rng.choice(PRICES),
                "latency_s": rng.choice(LATENCIES),
            }
        )
        for expert in experts()
        if expert.profession in kept
    ]
