"""Demonstrations for the cold start: correct thinking, a randomly drawn rule of choice, and the call that follows.

They teach the skills: recognise the domain, find the cards, copy names and answers. They do not teach the choice: the
rule is drawn at random, good or bad, so that reinforcement learning has the choice to learn. If the prompt states a
budget, the demonstration repeats the budget, lists the rules that it can pay for, and draws its rule from these. A
real language model knows what a budget is; this small one has to be taught.
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

_BUDGETS = (1, 2, 3, 4, 6, 8, 12)  # in hundredths of a cent, the unit of the prompt `compact`
# A call costs this many hundredths of a cent for each dollar of the price per million tokens: a reply has 20 tokens.
_BUDGET_OF_A_DOLLAR = 0.2
# `any`, a random card, is the most frequent rule, so that the policy routes poorly before training.
RULE_SHARES = {"best": 0.2, "thrifty": 0.2, "broad": 0.2, "any": 0.4}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a demonstration: text that the policy writes, or text that it reads."""

    text: str
    spoken: bool  # the policy writes it


@dataclass(frozen=True, slots=True)
class WorldDemonstration:
    """A user message and the pieces that follow it; `rules` holds the rule of each hop."""

    prompt: str
    pieces: tuple[Piece, ...]
    rules: tuple[str, ...]


def think_and_route(
    hop: Hop, menu: Menu, rule: str, rng: random.Random, known: str = "", budget: str = ""
) -> tuple[str, MenuItem, str]:
    """The policy's text for one hop, the card that it chooses, and the rule that it follows.

    Args:
        rule: a key of `RULE_SHARES`. With a budget it may be replaced, see `_within`.
        known: the first hop's answer, in the second hop.
        budget: the budget in the prompt's form, such as `$4`; empty for none. The text repeats it, and lists the rules
            whose cards it can pay for.
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
    """A rule and its card within the price `limit` (USD per million tokens).

    `any` draws from all cards within the limit. Another rule stays if its card is within the limit, and is replaced by
    a rule whose card is (`paid`) otherwise. If there is no such rule, the rule of the cheapest card is taken.
    """
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
    """Draw demonstrations without end.

    Args:
        cards_shown: cards in each prompt; the cards that fit the question are always among them. None shows all.
        budgets: whether each prompt states a budget.
    """
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
            # The second hop asks about the entity that the first reply named, even if that reply is wrong.
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

    Demonstrations teach the look-up of cards slowly, because each has only three; a drill has up to twelve.
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
    """Cards with newly drawn prices and latencies, so that the policy can't learn them by heart.

    With `spread`, low prices are drawn more often, so that small budgets can usually pay for some card.
    """
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
