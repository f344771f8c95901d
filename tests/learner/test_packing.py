"""Packing: sequences laid end to end in one row give the same results as transformers gives for each alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from learner.attention import PACKED, packed_inputs
from learner.batching import Sample, collate, pack
from learner.policy import TokenScorer, load_model, score

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,  # far from uniform, so that wrong attention is noticed
}
CONFIGS = {
    "grouped heads": LlamaConfig(**SIZES),
    "a head each": LlamaConfig(**SIZES | {"num_key_value_heads": 4}),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=32),
    "a window shorter than some sequences": MistralConfig(**SIZES, sliding_window=7),
}
TEMPERATURE = 0.8


def save(config: PreTrainedConfig, path: Path) -> Path:
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def make_samples(lengths: Sequence[int]) -> list[Sample]:
    rng = np.random.default_rng(11)
    out = []
    for index, length in enumerate(lengths):
        sampled = rng.random(length) < 0.6
        sampled[0], sampled[-1] = False, True
        logprobs = np.where(sampled, -4 * rng.random(length), 0).astype(np.float32)
        out.append(Sample(index, f"s{index}", rng.integers(0, 61, length), sampled, logprobs, float(rng.normal())))
    return out


def loss_of(logprobs: torch.Tensor, entropy: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """A clipped surrogate and an entropy bonus, summed over tokens."""
    ratio = (logprobs - old).exp()
    return -(torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.3) * advantages) + 0.1 * entropy).sum()


def packed_loss_and_gradients(
    model: PreTrainedModel, samples: Sequence[Sample], budget: int
) -> tuple[float, dict[str, torch.Tensor]]:
    """As the learner does it: packed to `budget`, through the scorer."""
    scorer = TokenScorer(model, entropy_grad=True)
    total, count = 0.0, sum(s.trained_tokens for s in samples)
    for batch in map(collate, pack(samples, budget)):
        ids, boundaries, positions, targets, old, advantages = (
            torch.from_numpy(array)
            for array in (
                batch.token_ids,
                batch.boundaries,
                batch.positions,
                batch.targets,
                batch.logprobs,
                batch.advantages,
            )
        )
        scores = score(scorer, ids, boundaries, positions, targets, TEMPERATURE, math.ceil(len(targets) / 25))
        loss = loss_of(scores.logprobs, scores.entropy, old, advantages) / count
        loss.backward()
        total += loss.item()
    return total, {name: p.grad for name, p in model.named_parameters()}


def single_loss_and_gradients(
    model: PreTrainedModel, samples: Sequence[Sample]
) -> tuple[float, dict[str, torch.Tensor]]:
    """As transformers does it: the model's own forward pass, one sequence at a time."""
    total, count = 0.0, sum(s.trained_tokens for s in samples)
    for s in samples:
        ids, mask = torch.from_numpy(s.token_ids), torch.from_numpy(s.sampled)[1:]
        logp = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1] / TEMPERATURE, -1)
        chosen, entropy = logp.gather(-1, ids[1:, None])[:, 0], -(logp.exp() * logp).sum(-1)
        old = torch.from_numpy(s.logprobs)[1:][mask]
        loss = loss_of(chosen[mask], entropy[mask], old, torch.full_like(old, s.advantage)) / count
        loss.backward()
        total += loss.item()
    return total, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_is_one_at_a_time(name: str, tmp_path: Path) -> None:
    path = save(CONFIGS[name], tmp_path)
    samples = make_samples([5, 40, 2, 17, 17, 33, 8])
    alone = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    wanted_loss, wanted = single_loss_and_gradients(alone, samples)
    for budget, recompute in ((4096, False), (50, True), (2, False)):
        model = load_model(path, torch.float32).train()
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        loss, gradients = packed_loss_and_gradients(model, samples, budget)
        assert loss == pytest.approx(wanted_loss, rel=1e-5)
        assert gradients.keys() == wanted.keys()
        for parameter, gradient in wanted.items():
            off = (gradients[parameter] - gradient).norm() / gradient.norm()
            assert off <= 1e-5, f"{parameter} is off by {off:.2g} at budget={budget}"


def test_no_mask_over_the_whole_row(tmp_path: Path) -> None:
    """50,000 tokens in one row: a T x T matrix of booleans would take 2.5 GB."""
    model = load_model(save(CONFIGS["grouped heads"], tmp_path), torch.float32)
    seen = []
    model.base_model.layers[0].register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    with torch.no_grad():
        ids = torch.zeros(50_000, dtype=torch.long)
        hidden = model.base_model(**packed_inputs(ids, torch.arange(0, 50_001, 100, dtype=torch.int32)))
    assert seen == [None]
    first, last = hidden.last_hidden_state[0, :100], hidden.last_hidden_state[0, -100:]
    torch.testing.assert_close(first, last)


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SIZES, head_dim=16, attn_logit_softcapping=0.5, final_logit_softcapping=None),
        GraniteConfig(**SIZES, logits_scaling=4.0),
    ],
    ids=["capped attention", "scaled logits"],
)
def test_refuses_architectures_it_would_get_wrong(config: PreTrainedConfig, tmp_path: Path) -> None:
    scorer = TokenScorer(load_model(save(config, tmp_path), torch.float32))
    with pytest.raises(ValueError, match=r"differ from its own forward pass .* not supported"):
        scorer.check()


def test_check_leaves_the_model_packed(tmp_path: Path) -> None:
    scorer = TokenScorer(load_model(save(CONFIGS["qwen2"], tmp_path), torch.float32))
    scorer.check()
    assert scorer.model.config._attn_implementation == PACKED
    scorer.model.save_pretrained(tmp_path / "saved")
    assert PACKED not in (tmp_path / "saved" / "config.json").read_text(encoding="utf-8"), "other programs load it"


def test_hidden_states_are_kept_for_a_value_head_alone_and_only_until_it_took_them(tmp_path: Path) -> None:
    model = load_model(save(CONFIGS["qwen2"], tmp_path), torch.float32)
    ids = torch.tensor([3, 1, 4, 1])
    arguments = (ids, torch.tensor([0, 4], dtype=torch.int32), torch.tensor([0, 2]), ids[[1, 3]], 1.0, 1)
    keeps, forgets = TokenScorer(model, keep_hidden=True), TokenScorer(model)
    for scorer in (keeps, forgets):
        scorer(*arguments)
    assert keeps.take_hidden().shape == (2, model.config.hidden_size)
    for scorer in (keeps, forgets):
        with pytest.raises(RuntimeError, match="the policy has not scored the batch"):
            scorer.take_hidden()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CONFIGS)
def test_variable_length_kernel(name: str, tmp_path: Path) -> None:
    """Half precision on a GPU compared with float32 on the CPU: hidden states, and the gradient of their sum."""
    path = save(CONFIGS[name], tmp_path)
    lengths = [5, 40, 2, 17, 33]
    ids = torch.randint(61, (sum(lengths),), generator=torch.Generator().manual_seed(1))
    boundaries = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    results = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        model = load_model(path, dtype).to(device)
        TokenScorer(model).check()
        hidden = model.base_model(**packed_inputs(ids.to(device), boundaries.to(device))).last_hidden_state
        hidden.float().pow(2).sum().backward()
        gradient = model.base_model.layers[0].self_attn.k_proj.weight.grad
        results.append((hidden.detach().float().cpu(), gradient.float().cpu()))
    for wanted, got in zip(*results, strict=True):
        assert (got - wanted).norm() / wanted.norm() < 0.05
