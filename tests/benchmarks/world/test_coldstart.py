"""The cold start in small: the command that made the shipped policy makes one that loads."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from actors.episodes.menu import draw_menu
from actors.episodes.prompt import compact_budget, render_prompt
from benchmarks.world.coldstart import BUDGET_CHECKPOINT, CHECKPOINT, make_budget_checkpoint, make_checkpoint
from benchmarks.world.demonstrations import think_and_route
from benchmarks.world.experts import experts
from benchmarks.world.facts import World
from benchmarks.world.language import build_tokenizer
from cluster.runs.policy_checkpoints import locate_checkpoint

pytestmark = pytest.mark.engine  # imports torch and transformers, and trains


def test_a_few_steps_make_a_whole_checkpoint_and_lower_the_loss(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "policy"
    losses = make_checkpoint(folder, steps=12, batch_size=6)
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert json.loads((folder / "coldstart.json").read_text())["steps"] == 12
    assert not list(tmp_path.glob(".*"))


def test_the_shipped_policy_goes_on_to_read_budgets(tmp_path: Path) -> None:
    losses = make_budget_checkpoint(tmp_path / "policy", steps=10, batch_size=6)
    assert losses[-1] < losses[0]
    assert json.loads((tmp_path / "policy" / "coldstart.json").read_text())["steps"] == 10
    assert locate_checkpoint("world-budget", tmp_path) == BUDGET_CHECKPOINT.resolve()


@pytest.mark.parametrize("checkpoint", [CHECKPOINT, BUDGET_CHECKPOINT])
def test_the_shipped_policy_is_small_and_speaks_the_language(checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    assert sum(path.stat().st_size for path in checkpoint.iterdir()) < 5_000_000
    assert AutoTokenizer.from_pretrained(checkpoint).get_vocab() == build_tokenizer().get_vocab()


@pytest.mark.parametrize("budget_usd", [0.0001, 0.0004, 0.0006, 0.0012])
def test_the_policy_reads_out_what_a_budget_pays_for_and_keeps_within_it(budget_usd: float) -> None:
    """Greedily, from the cards that it has looked up, at the experts' own prices. Whom `any` leads to is not looked at:
    it has not learnt to pick among all the cards those that are paid for."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BUDGET_CHECKPOINT)
    model = AutoModelForCausalLM.from_pretrained(BUDGET_CHECKPOINT).float()
    world, cards = World(), [expert.card("http://nowhere.invalid") for expert in experts()]
    told = compact_budget(budget_usd)
    right: list[bool] = []
    within: list[bool] = []
    for question, hops in itertools.islice(world.questions("heldout", 1, two_hop_share=0.5), 25):
        menu = draw_menu(cards, question.id, shuffle=True, rename="seen")
        thought, _, _ = think_and_route(hops[0], menu, "thrifty", random.Random(0), budget=told)
        begun, read_out, _ = thought.partition(" </think>")[0].rsplit(" . ", 2)
        prompt = render_prompt("compact", menu, question.text, 4, budget_usd=budget_usd)
        message = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=False)
        ids = [*ids, *tokenizer.encode(f"{begun} .", add_special_tokens=False)]
        output = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
        said, _, chosen = tokenizer.decode(output).partition(" </think>")[0].partition(" . ")
        right.append(said.split() == read_out.split())
        within.append(chosen.split()[0] in {*read_out.split()[1:], "any"})
    assert sum(right) >= 0.8 * len(right)
    assert sum(within) >= 0.9 * len(within)
