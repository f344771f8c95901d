"""The cold start: makes the world's small policy and fine-tunes it on demonstrations."""

from __future__ import annotations

import itertools
import json
import logging
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actors.whole_files import staged_folder
from benchmarks.world.demonstrations import WorldDemonstration, demonstrations, drills
from benchmarks.world.facts import World
from benchmarks.world.language import EOS, PAD, build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from learner.sft import SftExample

logger = logging.getLogger(__name__)

# Both ship with the package; made by `router-r1 world coldstart`, the second from the first with --budgets.
CHECKPOINT = Path(__file__).parent / "checkpoint"
BUDGET_CHECKPOINT = Path(__file__).parent / "budget_checkpoint"


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """A Llama of 1.1 M parameters with tied embeddings, randomly initialised."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
            eos_token_id=tokenizer.convert_tokens_to_ids(EOS),
            bos_token_id=None,
            initializer_range=0.05,
        )
    )


def tokenize(demonstration: WorldDemonstration, tokenizer: PreTrainedTokenizerFast) -> SftExample:
    """Tokens of a demonstration, piece by piece as an episode would append them."""
    from learner.sft import SftExample

    message = [{"role": "user", "content": demonstration.prompt}]
    ids = list(tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=False))
    spoken = [False] * len(ids)
    for piece in demonstration.pieces:
        tokens = tokenizer.encode(piece.text, add_special_tokens=False)
        ids += tokens
        spoken += [piece.spoken] * len(tokens)
    return SftExample(ids, spoken)


def batches(
    world: World, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int, batch_size: int
) -> Iterator[Sequence[SftExample]]:
    """Batches of growing difficulty: drills and few cards at first, so that looking up and copying are learnt on
    short prompts; then demonstrations with all cards."""
    for step in itertools.count():
        shown = 4 + int(10 * step / (0.3 * steps)) if step < 0.3 * steps else None
        drilled = int(batch_size * max(0.0, 0.75 * (1 - step / (0.5 * steps))))
        key = seed * 1_000_003 + step
        drawn = itertools.chain(
            itertools.islice(drills(world, key, shown), drilled),
            itertools.islice(demonstrations(world, key, shown), batch_size - drilled),
        )
        yield [tokenize(demonstration, tokenizer) for demonstration in drawn]


def budget_batches(
    world: World, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int, batch_size: int
) -> Iterator[Sequence[SftExample]]:
    """Batches of demonstrations under budgets: with few cards in the first half of the steps, then with all."""
    few, all_cards = (demonstrations(world, seed, shown, budgets=True) for shown in (5, None))
    for step in itertools.count():
        drawn = few if 2 * step < steps else all_cards
        yield [tokenize(each, tokenizer) for each in itertools.islice(drawn, batch_size)]


def make_budget_checkpoint(
    folder: Path, *, steps: int = 1400, batch_size: int = 32, lr: float = 1.5e-3, seed: int = 0
) -> list[float]:
    """Teach the shipped cold-started policy to read out what a budget pays for before it chooses, and save it as
    `make_checkpoint` does; return the losses."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT).float()
    drawn = budget_batches(World(), tokenizer, seed, steps, batch_size)
    return _teach(folder, model, tokenizer, drawn, steps=steps, batch_size=batch_size, lr=lr, seed=seed)


def make_checkpoint(
    folder: Path, *, steps: int = 2400, batch_size: int = 32, lr: float = 2e-3, seed: int = 0
) -> list[float]:
    """Train the cold-started policy and save it in Hugging Face form (float16 on disk); return the losses."""
    tokenizer = build_tokenizer()
    drawn = batches(World(), tokenizer, seed, steps, batch_size)
    model = build_model(tokenizer, seed)
    return _teach(folder, model, tokenizer, drawn, steps=steps, batch_size=batch_size, lr=lr, seed=seed)


def _teach(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    drawn: Iterator[Sequence[SftExample]],
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> list[float]:
    """Fine-tune, and put the checkpoint in place whole."""
    import torch

    from benchmarks.world.plain_sft import PlainSettings, fine_tune

    settings = PlainSettings(steps=steps, batch_size=batch_size, lr=lr, warmup_steps=min(200, steps // 10 + 1))
    pad = int(tokenizer.convert_tokens_to_ids(PAD))
    losses = fine_tune(model, drawn, settings, pad)
    final = statistics.fmean(losses[-20:])
    note = {"steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed, "final_loss": final}
    with staged_folder(folder) as stage:
        model.to(torch.float16).save_pretrained(stage)
        tokenizer.save_pretrained(stage)
        (stage / "coldstart.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    return losses
