"""The prompt: the text that the policy reads before its first word, and the texts that it reads after each route."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from actors.episodes.menu import Menu, MenuItem
from actors.settings import Template
from rewards.grammar import CLOSE, OPEN, neutralise
from rewards.transcript import BlockKind

Unrouted = Literal["direct", "cot"]  # prompts without candidates: answer at once, or reason step by step first

_INSTRUCT = """\
Answer the question. Think first, between <think> and </think>, whenever you have something new to consider. \
If you lack knowledge, ask one of the models below: write <search> MODEL NAME: your sub-question </search>, and \
its reply comes back between <information> and </information>. You may ask up to {rounds} times, the same model or \
another, each about a part of the question. Dear models cost you; ask the one that fits best for its price. \
When you know enough, write only the final answer, a few words, as <answer> ... </answer>.
{extras}
Models:
{cards}

Question: {question}"""

# Slots and rules of the templates that Router-R1 publishes (data_process/prompt_pool.py), in our own words.
_PAPER = """\
Find the answer to the question at the end. Whenever something new reaches you, reason about it between <think> and \
</think> before you do anything else. If your reasoning shows that knowledge is missing, put a question to a \
specialised LLM: <search> LLM-Name:Your-Query </search>.

What counts as a proper <search>:
- For LLM-Name put a name from this list, spelt exactly so: [{names}].
- For Your-Query put a definite question whose reply brings you nearer to the answer.
- Leave the descriptions of the models out of it.
- LLM-Name:Your-Query as it stands here asks nobody: both parts must be filled in.
{tags_rule}
Settle two things between <think> and </think> before every <search>: why you need knowledge from outside, and which \
model's abilities, described below, suit it best.

The reply stands between <information> and </information>. Don't keep to one model, unless its replies have turned \
out the most useful throughout; try several and learn what each is good and bad at. Asking more than one about the \
same question is welcome, since together they tell more.
{extras}
The models:
{cards}

Once nothing is missing any more, give the final answer between <answer> and </answer>, without explaining it, such \
as <answer> Lisbon </answer>. Between the tags stands your own answer; tags with nothing of yours in them are none.

Question: {question}
"""
_TAGS_RULE = """\
- The tags <think> and </think> hold your reasoning; don't write them empty or with dots between them, and don't \
talk about them.
"""

_UNROUTED: dict[Unrouted, str] = {
    "direct": """\
Answer the question at once, by what you know yourself. Write only the final answer, a few words, as \
<answer> ... </answer>, such as <answer> Lisbon </answer>.

Question: {question}""",
    "cot": """\
Answer the question by what you know yourself. First reason step by step, between <think> and </think>. Then write \
only the final answer, a few words, as <answer> ... </answer>, such as <answer> Lisbon </answer>.

Question: {question}""",
}


COMPACT_BUDGETS_PER_USD = 10_000  # `compact` states budgets in hundredths of a cent


def render_prompt(
    template: Template,
    menu: Menu,
    question: str,
    max_rounds: int,
    *,
    budget_usd: float | None = None,
    parallel_searches: int = 1,
) -> str:
    """The user message: rules, cards and question, and a budget if there is one.

    `instruct` explains the protocol. `paper_qwen` and `paper_llama` have the slots and rules of the two templates
    that Router-R1 publishes. `compact` is for a policy that knows the protocol: only the cards and the question,
    below a budget in whole hundredths of a cent, because the world's policy knows `$1` to `$40` as words.
    """
    if template == "compact":
        budget = [] if budget_usd is None else [compact_budget(budget_usd)]
        return "\n".join([*budget, *map(_short_card, menu.items), question])
    extras = _extras(budget_usd, parallel_searches)
    cards = "\n".join(map(_card, menu.items))
    if template == "instruct":
        return _INSTRUCT.format(rounds=max_rounds, extras=extras, cards=cards, question=question)
    return _PAPER.format(
        names=", ".join(item.name for item in menu.items),
        tags_rule=_TAGS_RULE if template == "paper_llama" else "",
        extras=extras,
        cards=cards,
        question=question,
    )


def compact_budget(budget_usd: float) -> str:
    """A budget as `compact` states it: `$` and hundredths of a cent, at least 1."""
    return f"${max(1, round(budget_usd * COMPACT_BUDGETS_PER_USD))}"


def render_unrouted(template: Unrouted, question: str) -> str:
    """The user message without candidates: answer at once (`direct`), or reason step by step first (`cot`)."""
    return _UNROUTED[template].format(question=question)


def information_parts(reply: str) -> tuple[str, str, str]:
    """A candidate's reply as the policy reads it: opening tag, reply with neutralised protocol tags, closing tag.

    The parts are encoded one by one, so that no tokenizer merges a reply's tokens with those of the tags.
    """
    return (
        f"\n{OPEN[BlockKind.INFORMATION]}",
        f" {neutralise(reply).strip()}",
        f" {CLOSE[BlockKind.INFORMATION]}\n",
    )


def render_information(reply: str) -> str:
    """`information_parts` as one text."""
    return "".join(information_parts(reply))


def invalid_route_feedback(requested: str, menu: Menu) -> str:
    """The text that the policy reads after it named an unknown candidate."""
    names = ", ".join(item.name for item in menu.items)
    return f"no candidate is called {requested or 'so'} . choose a name from the cards : {names} ."


FAILED_CALL = "the candidate is not available now ."
LAST_TURN = "no routes are left . answer now ."


def _card(item: MenuItem) -> str:
    card = item.card
    known = ", ".join(f"{domain} {share:.0%}" for domain, share in card.domains.items())
    return (
        f"- {item.name}: {card.descriptor} (${card.price_in_usd_per_mtok:g} in, "
        f"${card.price_out_usd_per_mtok:g} out per million tokens; about {card.latency_s:g} s"
        f"{f'; right answers: {known}' if known else ''})"
    )


def _short_card(item: MenuItem) -> str:
    card = item.card
    return f"{card.descriptor} {item.name} ${card.price_out_usd_per_mtok:.0f} {card.latency_s:.0f}s"


def _extras(budget_usd: float | None, parallel_searches: int) -> str:
    """Rules that only some episodes have, one per line."""
    lines = []
    if parallel_searches > 1:
        lines.append(
            f"You may write up to {parallel_searches} searches before you read. Behind the last of them, or the only "
            "one, write <information>: then all replies come back, in the same order.\n"
        )
    if budget_usd is not None:
        plain = format(Decimal(repr(budget_usd)), "f")  # never in scientific notation, such as 8e-05
        lines.append(f"Your budget: all that you ask may cost {plain} US dollars together.\n")
    return "".join(lines)
