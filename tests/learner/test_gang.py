"""The learner gang on real DeepSpeed ranks compared with plain PyTorch: one lifetime, at every ZeRO stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_gang import forked_gang
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.episodes.trajectory import Trajectory
from learner.gang import LearnerGang
from learner.metrics import CRITIC_METRICS, LEARNER_METRICS
from learner.settings import LearnerSettings

pytestmark = pytest.mark.engine

TEMPERATURE, KL, ENTROPY, CLIP_LOW, CLIP_HIGH, MAX_NORM = 0.8, 0.05, 0.01, 0.1, 0.3, 0.3
PROBE = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
# A large eps keeps AdamW well-conditioned: otherwise rounding in a gradient near 0 flips the sign of a whole step.
ADAMW = {"lr": 3e-3, "eps": 1e-3, "weight_decay": 0.01, "warmup_steps": 2}


def settings(**changes: Any) -> LearnerSettings:
    base = {
        "kl_coef": KL,
        "entropy_coef": ENTROPY,
        "clip_low": CLIP_LOW,
        "clip_high": CLIP_HIGH,
        "max_grad_norm": MAX_NORM,
        "ppo_epochs": 2,
        "optimizer": ADAMW,
        "start_timeout_s": 120,
        "step_timeout_s": 60,
    }
    return LearnerSettings.model_validate(base | changes)


GANGS = {
    "one rank, ZeRO 0": settings(micro_batch_tokens=100),
    "two ranks, ZeRO 0": settings(ranks=2, micro_batch_tokens=4096),
    "two ranks, ZeRO 2": settings(ranks=2, zero_stage=2, micro_batch_tokens=70, logit_chunk_tokens=16),
    "two ranks, ZeRO 3": settings(
        ranks=2, zero_stage=3, micro_batch_tokens=150, logit_chunk_tokens=16, gradient_checkpointing=True
    ),
}


def plain_logprobs(model: Any, ids: np.ndarray, temperature: float) -> torch.Tensor:
    """Log-probabilities of all tokens but the first, and entropies, from the model's own forward pass on one row."""
    logp = torch.log_softmax(model(input_ids=torch.tensor(ids)[None]).logits[0, :-1] / temperature, -1)
    chosen = logp.gather(-1, torch.tensor(ids)[1:, None])[:, 0]
    return torch.stack([chosen, -(logp.exp() * logp).sum(-1)])


@pytest.fixture(scope="module")
def batches(tiny_checkpoint: Path, random_trajectories: Callable[..., list[Trajectory]]) -> list[list[Trajectory]]:
    """Two batches as if the checkpoint had sampled them: the recorded log-probabilities come from transformers."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    rng = np.random.default_rng(7)

    @torch.no_grad()
    def score(ids: np.ndarray) -> np.ndarray:
        return plain_logprobs(model, ids, TEMPERATURE)[0].numpy()

    return [random_trajectories(rng, 3, 3, score=score) for _ in range(2)]


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path, batches: list[list[Trajectory]]) -> dict[str, torch.Tensor]:
    """Parameters after the batches in plain PyTorch: one row at a time, no padding, no chunks, no DeepSpeed."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    reference = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    adamw = torch.optim.AdamW(model.parameters(), lr=0, eps=ADAMW["eps"], weight_decay=ADAMW["weight_decay"])
    clipped = 0
    for step, batch in enumerate([b for b in batches for _ in range(2)]):
        total = sum(int(t.sampled.sum()) for t in batch)
        for t in batch:
            rewards = [o.reward.total for o in batch if o.group == t.group]
            advantage = (t.reward.total - np.mean(rewards)) / (np.std(rewards) + 1e-6)
            mask = torch.tensor(t.sampled[1:])
            new, entropy = plain_logprobs(model, t.token_ids, TEMPERATURE)
            with torch.no_grad():
                delta = plain_logprobs(reference, t.token_ids, TEMPERATURE)[0] - new.detach()
            ratio = (new - torch.tensor(t.logprobs[1:])).exp()
            surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH) * advantage)
            clipped += int(((ratio - 1).abs() > CLIP_HIGH)[mask].sum())
            # k3's gradient by hand: d/dnew (exp(ref - new) - (ref - new) - 1) = 1 - exp(ref - new)
            loss = -surrogate + KL * (1 - delta.exp()) * new - ENTROPY * entropy
            (loss[mask].sum() / total).backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM) > MAX_NORM
        adamw.param_groups[0]["lr"] = ADAMW["lr"] * min((step + 1) / ADAMW["warmup_steps"], 1)
        adamw.step()
        adamw.zero_grad()
    assert clipped, "the batches were to reach the clip"
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.fixture(scope="module", params=list(GANGS))
def gang(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Iterator[LearnerGang]:
    with forked_gang(tiny_checkpoint, GANGS[request.param], temperature=TEMPERATURE) as running:
        yield running


def test_gang(
    gang: LearnerGang,
    batches: list[list[Trajectory]],
    expected: dict[str, torch.Tensor],
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    """One lifetime: train, save, resume, refuse a loss that is not finite."""
    first = gang.train_step(batches[0])
    assert set(first) == set(LEARNER_METRICS) - {*CRITIC_METRICS, "mfu"}
    assert first["ratio_max_deviation"] < 1e-4, "the first-step policy ratio must be 1"
    assert first["optimizer_steps"] == 2
    assert first["tokens_trained"] == sum(t.sampled.sum() for t in batches[0])
    assert 0 < first["packing_efficiency"] <= 1
    assert 1 / gang.settings.ranks <= first["rank_balance"] <= 1
    second = gang.train_step(batches[1][::-1])  # the order of arrival must not matter
    assert second["kl_ref"] > 1e-4
    assert second["clip_fraction_low"] + second["clip_fraction_high"] > 0

    gang.save_pretrained(tmp_path / "policy")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert saved.get_output_embeddings().weight is saved.get_input_embeddings().weight
    parameters = dict(saved.named_parameters())
    assert parameters.keys() == expected.keys()
    moved = AutoModelForCausalLM.from_pretrained(tiny_checkpoint).state_dict()
    for name, wanted in expected.items():
        torch.testing.assert_close(parameters[name], wanted, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert (wanted - moved[name]).abs().max() > 1e-3, f"{name} was to move"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    assert tokenizer("w3 w1").input_ids == [3, 1]
    with torch.no_grad():
        wanted_probe = plain_logprobs(saved, np.array(PROBE), 1.0)[0]
    np.testing.assert_allclose(gang.logprobs(PROBE), wanted_probe, atol=1e-5)

    gang.save_state(tmp_path / "state")
    third = gang.train_step(batches[0])
    after_third = gang.logprobs(PROBE)
    gang.load_state(tmp_path / "state")
    np.testing.assert_allclose(gang.logprobs(PROBE), wanted_probe, atol=1e-5)
    again = gang.train_step(batches[0])
    untimed = third.keys() - {"step_seconds", "tokens_per_s", "peak_memory_gib"}
    assert {k: again[k] for k in untimed} == {k: third[k] for k in untimed}
    assert gang.logprobs(PROBE) == after_third, "a resumed optimizer must take the same step, bit for bit"
    assert not list(tmp_path.glob(".*")), "no partial directory may be left"

    for _ in range(2):
        assert gang.train_step(spoil(batches[0])).items() >= {("bad_steps", 1.0), ("optimizer_steps", 0.0)}
        assert gang.logprobs(PROBE) == after_third, "no step may be taken on a loss that is not finite"
    gang.load_state(tmp_path / "state")
    once_more = gang.train_step(batches[0])
    assert {k: once_more[k] for k in untimed} == {k: third[k] for k in untimed}, "a skipped step may leave nothing"


def spoil(batch: list[Trajectory]) -> list[Trajectory]:
    """The batch with an impossible recorded log-probability in the trajectory with the lowest reward of group g0."""
    worst = min((t for t in batch if t.group == "g0"), key=lambda t: t.reward.total)
    worst_logprobs = np.where(worst.sampled, np.float32(-1e4), np.float32(0))
    return [replace(t, logprobs=worst_logprobs) if t is worst else t for t in batch]
