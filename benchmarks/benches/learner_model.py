"""What the learner benches train: a random Llama, made-up trajectories, and the learner's settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actors.episodes.trajectory import TokenBuffer, Trajectory
from actors.questions import Question
from learner.settings import LearnerSettings, OptimizerSettings
from rewards.presets import RewardBreakdown
from rewards.transcript import StopReason, Transcript

TRAJECTORIES, GROUP_SIZE, SHORTEST, LONGEST = 64, 8, 60, 400
FEWEST_WORDS = 1024  # token ids of the trajectories lie below


def make_trajectories(count: int = TRAJECTORIES, seed: int = 0) -> list[Trajectory]:
    """Trajectories of `SHORTEST` to `LONGEST` tokens in groups of `GROUP_SIZE`: a prompt, then turns and replies."""
    rng = np.random.default_rng(seed)

    def tokens(least: int, most: int) -> list[int]:
        return [int(token) for token in rng.integers(3, FEWEST_WORDS, rng.integers(least, most + 1))]

    out = []
    for number in range(count):
        group, length = f"g{number // GROUP_SIZE}", int(rng.integers(SHORTEST, LONGEST + 1))
        buffer = TokenBuffer()
        buffer.extend_context(tokens(30, 50))
        while len(buffer) < length:
            turn = tokens(10, 60)[: length - len(buffer)]
            buffer.extend_sampled(turn, [-math.log(FEWEST_WORDS)] * len(turn), [0] * len(turn))
            buffer.extend_context(tokens(10, 30)[: max(length - len(buffer), 0)])
        outcome = float(rng.random() < 0.5)
        out.append(
            Trajectory(
                question=Question(group, "bench", "?", ("!",)),
                group=group,
                seed=number,
                token_ids=np.asarray(buffer.token_ids, np.int64),
                sampled=np.asarray(buffer.sampled, np.bool_),
                logprobs=np.asarray(buffer.logprobs, np.float32),
                versions=np.asarray(buffer.versions, np.int64),
                transcript=Transcript((), StopReason.ANSWERED),
                prompt="",
                wall_s=0.0,
                reward=RewardBreakdown(0.0, outcome, 0.0, outcome, outcome, outcome),
            )
        )
    return out


# Shapes of a Llama with a tied embedding: 3.8M parameters besides it, and SmolLM2-135M's.
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 896,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


def save_model(checkpoint: Path, vocab: int, *, shape: Mapping[str, int] = SMALL, seed: int = 0) -> None:
    """Write a random Llama, float32, with a tokenizer of made-up words."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        **shape,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(checkpoint)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocab)}, unk_token="w2"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w0").save_pretrained(checkpoint)


def learner_settings(zero_stage: int = 0, **changes: Any) -> LearnerSettings:
    """The gang's settings: one rank, one thread, no reference policy."""
    base = {"zero_stage": zero_stage, "kl_coef": 0.0, "optimizer": OptimizerSettings(lr=1e-4)}
    return LearnerSettings.model_validate(base | changes)
