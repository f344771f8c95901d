"""LoRA compared with plain PyTorch: only adapters train, the base is the reference, and saved weights are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_gang import forked_gang
from peft import PeftModel
from transformers import AutoModelForCausalLM

from actors.episodes.trajectory import Trajectory
from learner.settings import LearnerSettings

pytestmark = pytest.mark.engine

KL, LR, EPS = 0.1, 1e-2, 1e-3
PROBE = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]

BASE: dict[str, Any] = {
    "lora": {"rank": 4, "alpha": 8},
    "estimator": "dr_grpo",
    "kl_coef": KL,
    "kl_estimator": "k2",
    "ppo_epochs": 2,
    "lr_by_staleness": False,
    "max_grad_norm": 100.0,
    "optimizer": {"lr": LR, "eps": EPS},
    "start_timeout_s": 240,
    "step_timeout_s": 120,
}
GANGS: dict[str, dict[str, Any]] = {
    "one rank, ZeRO 0": {"micro_batch_tokens": 60},
    "two ranks, ZeRO 3": {"ranks": 2, "zero_stage": 3, "micro_batch_tokens": 400, "gradient_checkpointing": True},
}


def scores(model: Any, t: Trajectory) -> torch.Tensor:
    """Log-probabilities of the sampled tokens."""
    ids = torch.tensor(t.token_ids)
    logp = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1], -1)
    return logp.gather(-1, ids[1:, None])[:, 0][torch.tensor(t.sampled[1:])]


@pytest.mark.parametrize("shape", list(GANGS))
def test_adapters(
    shape: str, tiny_checkpoint: Path, random_trajectories: Callable[..., list[Trajectory]], tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)

    @torch.no_grad()
    def score(ids: np.ndarray) -> np.ndarray:
        logp = torch.log_softmax(base(input_ids=torch.tensor(ids)[None]).logits[0, :-1], -1)
        return logp.gather(-1, torch.tensor(ids)[1:, None])[:, 0].numpy()

    batch = random_trajectories(np.random.default_rng(4), 2, 3, score=score)
    settings = LearnerSettings.model_validate(BASE | GANGS[shape])
    with forked_gang(tiny_checkpoint, settings) as gang:
        gang.save_pretrained(tmp_path / "before")
        metrics = gang.train_step(batch)
        assert metrics["kl_ref"] > 1e-5, "the adapters were to lead away from the base"
        gang.save_pretrained(tmp_path / "after")
        probe = gang.logprobs(PROBE)
        gang.save_state(tmp_path / "state")
        second, after_second = gang.train_step(batch), gang.logprobs(PROBE)
        gang.load_state(tmp_path / "state")
        assert gang.train_step(batch)["loss"] == second["loss"]
        assert gang.logprobs(PROBE) == after_second

    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_checkpoint), tmp_path / "before" / "adapter", is_trainable=True
    )
    adamw = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=LR, eps=EPS, weight_decay=0)
    total = sum(int(t.sampled.sum()) for t in batch)
    for _ in range(2):
        for t in batch:
            advantage = t.reward.total - np.mean([o.reward.total for o in batch if o.group == t.group])
            new = scores(plain, t)
            with torch.no_grad():
                reference = scores(base, t)
            ratio = (new - torch.tensor(t.logprobs[t.sampled])).exp()
            surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            ((KL * (new - reference) ** 2 / 2 - surrogate).sum() / total).backward()
        adamw.step()
        adamw.zero_grad()
    wanted = dict(plain.merge_and_unload().named_parameters())

    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "after")
    moved = {name for name, p in base.named_parameters() if not torch.equal(p, saved.get_parameter(name))}
    assert moved == {name for name, _ in base.named_parameters() if name.endswith("proj.weight")}
    for name, value in wanted.items():
        torch.testing.assert_close(saved.get_parameter(name), value, rtol=0, atol=1e-5)
    with torch.no_grad():
        logp = torch.log_softmax(saved(input_ids=torch.tensor([PROBE])).logits[0, :-1], -1)
    expected = logp.gather(-1, torch.tensor(PROBE)[1:, None])[:, 0]
    np.testing.assert_allclose(probe, expected, atol=1e-5)
