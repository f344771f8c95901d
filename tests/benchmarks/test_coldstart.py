"""The cold start in small: the command that made the shipped policy makes one that loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.world.coldstart import BUDGET_CHECKPOINT, CHECKPOINT, make_budget_checkpoint, make_checkpoint
from benchmarks.world.language import build_tokenizer
from cluster.policies import locate_checkpoint

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
