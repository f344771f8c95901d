"""The prompt: what the policy reads before its first word, and what it reads after each route."""

from __future__ import annotations

from typing import Literal

from actors.menu import Menu
from rewards.grammar import CLOSE, OPEN, neutralise
from rewards.transcript import BlockKind

Template = Literal["instruct", "compact"]

_INSTRUCT = """\
Answer the question. Think first, between <think> and </think>, whenever you have something new to consider. \
If you lack knowledge, ask one of the models below: write <search> MODEL NAME: your sub-question </search>, and \
its reply comes back between <information> and </information>. You may ask up to {rounds} times, the same model or \
another, each about a part of the question. Dear models cost you; ask the one that fits best for its price. \
When you know enough, write only the final answer, a few words, as <answer> ... </answer>.

Models:
{cards}

Question: {question}"""


def render_prompt(template: Template, menu: Menu, question: str, max_rounds: int) -> str:
    """The user message: rules and cards (`instruct`), or only cards (`compact`), then the question."""
    if template == "compact":
        cards = "\n".join(
            f"{item.card.descriptor} {item.name} ${item.card.price_out_usd_per_mtok:.0f} {item.card.latency_s:.0f}s"
            for item in menu.items
        )
        return f"{cards}\n{question}"
    cards = "\n".join(
        f"- {item.name}: {item.card.descriptor} (${item.card.price_in_usd_per_mtok:g} in, "
        f"${item.card.price_out_usd_per_mtok:g} out per million tokens; about {item.card.latency_s:g} s)"
        for item in menu.items
    )
    return _INSTRUCT.format(rounds=max_rounds, cards=cards, question=question)


def render_information(reply: str) -> str:
    """A candidate's reply as the policy reads it, its protocol tags made harmless."""
    return f"\n{OPEN[BlockKind.INFORMATION]} {neutralise(reply).strip()} {CLOSE[BlockKind.INFORMATION]}\n"


def invalid_route_feedback(requested: str, menu: Menu) -> str:
    """What the policy is told when it named no candidate."""
    names = ", ".join(item.name for item in menu.items)
    return f"no candidate is called {requested or 'so'} . choose a name from the cards : {names} ."


FAILED_CALL = "the candidate is not available now ."
LAST_TURN = "no routes are left . answer now ."
