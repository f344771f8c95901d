"""The prompt: made from the cards, with the rules and slots that each template promises."""

from __future__ import annotations

from typing import get_args

import pytest

from actors.episodes.menu import draw_menu
from actors.episodes.prompt import Unrouted, render_prompt, render_unrouted
from actors.settings import Template
from benchmarks.world.experts import experts
from benchmarks.world.language import build_tokenizer

CARDS = [expert.card("http://127.0.0.1:1/v1") for expert in experts()]
MENU = draw_menu(CARDS, 0, shuffle=True, rename="seen")
QUESTION = "what is the {comet} of lanu ?"
SPOKEN: tuple[Template, ...] = ("instruct", "paper_qwen", "paper_llama")


@pytest.mark.parametrize("template", SPOKEN)
def test_every_card_is_told_with_prices_latency_and_what_was_measured(template: Template) -> None:
    known = CARDS[0].model_copy(update={"domains": {"nq": 0.615, "hotpotqa": 0.4}, "price_in_usd_per_mtok": 0.05})
    prompt = render_prompt(template, draw_menu([known, *CARDS[1:]], 0, shuffle=True), QUESTION, 4)
    assert (
        f"- {known.name}: {known.descriptor} ($0.05 in, ${known.price_out_usd_per_mtok:g} out per million tokens; "
        f"about {known.latency_s:g} s; right answers: nq 62%, hotpotqa 40%)\n"
    ) in prompt
    for card in CARDS[1:]:
        assert f"- {card.name}: {card.descriptor} (" in prompt
    assert prompt.count("right answers") == 1
    assert QUESTION in prompt


@pytest.mark.parametrize("template", ["paper_qwen", "paper_llama"])
def test_the_papers_templates_have_its_slots_and_rules(template: Template) -> None:
    prompt = render_prompt(template, MENU, QUESTION, 4)
    assert f"[{', '.join(item.name for item in MENU.items)}]" in prompt
    for tag in ("<think>", "</think>", "<search> LLM-Name:Your-Query </search>", "<information>", "<answer>"):
        assert tag in prompt
    assert prompt.rstrip().endswith(f"Question: {QUESTION}")
    assert ("hold your reasoning" in prompt) == (template == "paper_llama")  # the only rule that differs


def test_compact_lists_the_cards_and_the_question_and_nothing_else() -> None:
    lines = render_prompt("compact", MENU, QUESTION, 4).split("\n")
    assert len(lines) == len(MENU.items) + 1
    card = MENU.items[0].card
    name = MENU.items[0].name
    assert lines[0] == f"{card.descriptor} {name} ${card.price_out_usd_per_mtok:.0f} {card.latency_s:.0f}s"
    assert lines[-1] == QUESTION


@pytest.mark.parametrize("template", get_args(Template))
def test_only_a_budget_tells_a_budget(template: Template) -> None:
    without = render_prompt(template, MENU, QUESTION, 4)
    told = render_prompt(template, MENU, QUESTION, 4, budget_usd=0.00008)
    assert without != told
    assert "budget" not in without.casefold()
    if template != "compact":
        assert "may cost 0.00008 US dollars" in told


def test_the_world_can_read_its_budgets() -> None:
    tokenizer = build_tokenizer()
    for hundredths in range(1, 41):
        told = render_prompt("compact", MENU, QUESTION, 4, budget_usd=hundredths / 10_000).split("\n")[0]
        assert told == f"${hundredths}"
        assert len(ids := tokenizer.encode(told, add_special_tokens=False)) == 1
        assert tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("template", SPOKEN)
def test_several_searches_are_explained_where_they_are_allowed(template: Template) -> None:
    assert "up to 3 searches" in render_prompt(template, MENU, QUESTION, 4, parallel_searches=3)
    assert "searches" not in render_prompt(template, MENU, QUESTION, 4)


@pytest.mark.parametrize("template", get_args(Unrouted))
def test_who_can_ask_nobody_is_told_how_to_answer_and_of_no_route(template: Unrouted) -> None:
    prompt = render_unrouted(template, QUESTION)
    assert "<answer> ... </answer>" in prompt
    assert prompt.endswith(f"Question: {QUESTION}")
    assert "<search>" not in prompt
    assert ("<think>" in prompt) == ("step by step" in prompt) == (template == "cot")
