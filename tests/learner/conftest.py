"""Fixtures of the learner's tests: a tiny tied Llama checkpoint and synthetic trajectories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from actors.episodes.trajectory import NOT_SAMPLED, Trajectory
from actors.questions import Question
from rewards.presets import RewardBreakdown
from rewards.transcript import StopReason, Transcript

VOCAB = 61


def make_trajectory(
    token_ids: npt.NDArray[np.int64],
    sampled: npt.NDArray[np.bool_],
    logprobs: npt.NDArray[np.float32],
    *,
    group: str,
    seed: int,
    reward: float | None,
) -> Trajectory:
    breakdown = None
    if reward is not None:
        breakdown = RewardBreakdown(format=0.0, outcome=reward, cost=0.0, total=reward, em=reward, f1=reward)
    return Trajectory(
        question=Question(group, "test", "?", ("!",)),
        group=group,
        seed=seed,
        token_ids=token_ids,
        sampled=sampled,
        logprobs=logprobs,
        versions=np.where(sampled, 0, NOT_SAMPLED),
        transcript=Transcript((), StopReason.ANSWERED),
        prompt="",
        wall_s=0.0,
        reward=breakdown,
    )


def random_trajectories(
    rng: np.random.Generator,
    groups: int,
    size: int,
    *,
    longest: int = 40,
    vocab: int = VOCAB,
    score: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]] | None = None,
) -> list[Trajectory]:
    """`groups * size` trajectories with context in the middle and random rewards.

    `score` gives log-probabilities `[T - 1]` of all tokens but the first; without it they are random.
    """
    out = []
    for group in range(groups):
        for seed in range(size):
            length = int(rng.integers(6, longest + 1))
            ids = rng.integers(0, vocab, length)
            sampled = rng.random(length) < 0.6
            sampled[:2], sampled[-1] = False, True
            logprobs = np.zeros(length, np.float32)
            scores = score(ids) if score is not None else -rng.random(length - 1).astype(np.float32)
            logprobs[1:] = np.where(sampled[1:], scores, 0)
            reward = float(rng.normal())
            out.append(make_trajectory(ids, sampled, logprobs, group=f"g{group}", seed=seed, reward=reward))
    return out


@pytest.fixture(scope="session", name="make_trajectory")
def _make_trajectory() -> Callable[..., Trajectory]:
    return make_trajectory


@pytest.fixture(scope="session", name="random_trajectories")
def _random_trajectories() -> Callable[..., list[Trajectory]]:
    return random_trajectories


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a random float32 Llama with tied embeddings, with a tokenizer."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.15,  # far from uniform, so that a wrong log-probability is noticed
    )
    path = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(path)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(path)
    return path
