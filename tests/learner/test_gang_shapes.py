"""Any number of ranks, ZeRO stage and micro-batch budget gives the same training; a killed gang resumes bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_gang import ForkedGang, forked_gang
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from actors.episodes.trajectory import Trajectory
from learner.settings import LearnerSettings

pytestmark = pytest.mark.engine

# A large eps keeps AdamW well-conditioned: otherwise rounding in a gradient near 0 flips the sign of a whole step.
LR, EPS, MAX_NORM, STEPS = 3e-3, 1e-3, 0.3, 5
BASE: dict[str, Any] = {
    "kl_coef": 0.0,
    "estimator": "dr_grpo",
    "max_grad_norm": MAX_NORM,
    "optimizer": {"lr": LR, "eps": EPS, "warmup_steps": 3},
    "logit_chunk_tokens": 16,
    "step_timeout_s": 120,
}
BUDGETS = (50, 4096)


@pytest.fixture(scope="module")
def batches(tiny_checkpoint: Path, random_trajectories: Callable[..., list[Trajectory]]) -> list[list[Trajectory]]:
    """One batch for each step; two have fewer trajectories than the largest gang has ranks, so a rank gets none."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    rng = np.random.default_rng(12)

    @torch.no_grad()
    def score(ids: np.ndarray) -> np.ndarray:
        logp = torch.log_softmax(model(input_ids=torch.tensor(ids)[None]).logits[0, :-1], -1)
        return logp.gather(-1, torch.tensor(ids)[1:, None])[:, 0].numpy()

    return [random_trajectories(rng, groups, 3, score=score) for groups in (3, 1, 2, 1, 3)]


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path, batches: list[list[Trajectory]]) -> dict[str, torch.Tensor]:
    """Parameters after the steps in plain PyTorch, one row at a time."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    adamw = torch.optim.AdamW(model.parameters(), lr=0, eps=EPS, weight_decay=0)
    for step, batch in enumerate(batches):
        total = sum(int(t.sampled.sum()) for t in batch)
        for t in batch:
            advantage = t.reward.total - np.mean([o.reward.total for o in batch if o.group == t.group])
            ids, mask = torch.tensor(t.token_ids), torch.tensor(t.sampled[1:])
            logp = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1], -1)
            ratio = (logp.gather(-1, ids[1:, None])[:, 0] - torch.tensor(t.logprobs[1:])).exp()
            loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            (loss[mask].sum() / total).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        # All batches are of version 0, so they become staler with every step.
        adamw.param_groups[0]["lr"] = LR * min((step + 1) / 3, 1) / max(1, step)
        adamw.step()
        adamw.zero_grad()
    return {name: p.detach() for name, p in model.named_parameters()}


def with_budget(gang: ForkedGang, micro_batch_tokens: int) -> None:
    """Change the budget of a running gang: the driver plans batches, so the ranks need no restart."""
    gang.settings = gang.settings.model_copy(update={"micro_batch_tokens": micro_batch_tokens})


def parameters(gang: ForkedGang, path: Path) -> dict[str, torch.Tensor]:
    gang.save_pretrained(path)
    return load_file(path / "model.safetensors")


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_shape_trains_alike(
    ranks: int,
    zero_stage: int,
    batches: list[list[Trajectory]],
    expected: dict[str, torch.Tensor],
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    """Parameters after exactly five optimizer steps, within 1e-5 of plain PyTorch's."""
    settings = LearnerSettings.model_validate(BASE | {"ranks": ranks, "zero_stage": zero_stage})
    start = load_file(tiny_checkpoint / "model.safetensors")
    with forked_gang(tiny_checkpoint, settings) as gang:
        gang.save_state(tmp_path / "start")
        for budget in BUDGETS:
            with_budget(gang, budget)
            assert sum(gang.train_step(batch)["optimizer_steps"] for batch in batches) == STEPS
            found = parameters(gang, tmp_path / str(budget))
            for name, wanted in expected.items():
                torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
                assert (wanted - start[name]).abs().max() > 1e-3, f"{name} was to move"
            gang.load_state(tmp_path / "start")


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_gang_killed_after_any_step_goes_on_bit_for_bit(
    zero_stage: int, batches: list[list[Trajectory]], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Two ranks are killed with SIGKILL after each of four steps, and each time new processes resume."""
    settings = LearnerSettings.model_validate(
        BASE | {"ranks": 2, "zero_stage": zero_stage, "ppo_epochs": 2, "minibatches": 2, "micro_batch_tokens": 70}
    )
    with forked_gang(tiny_checkpoint, settings) as gang:
        wanted = []
        for number, batch in enumerate(batches):
            metrics = gang.train_step(batch)
            wanted.append((metrics["loss"], metrics["grad_norm"], parameters(gang, tmp_path / f"wanted-{number}")))
    killed: set[int] = set()
    for number, batch in enumerate(batches):
        with forked_gang(tiny_checkpoint, settings) as gang:
            assert not killed & set(gang.pids()), "new processes must take over"
            if number:
                gang.load_state(tmp_path / "state")
                assert gang.batches_trained() == number
            metrics = gang.train_step(batch)
            loss, norm, parameters_wanted = wanted[number]
            assert (metrics["loss"], metrics["grad_norm"]) == (loss, norm)
            found = parameters(gang, tmp_path / f"found-{number}")
            assert all(torch.equal(found[name], value) for name, value in parameters_wanted.items())
            gang.save_state(tmp_path / "state")
            for pid in gang.pids():
                os.kill(pid, signal.SIGKILL)
            killed |= set(gang.pids())


def masters(gang: ForkedGang, path: Path) -> torch.Tensor:
    """All float32 parameters in one tensor, in the order of their names."""
    gang.save_state(path)
    state = load_file(path / "policy-00000.safetensors")
    return torch.cat([state[name].flatten() for name in sorted(state) if name.endswith("/value")])


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_bfloat16_goes_the_same_way(
    zero_stage: int,
    batches: list[list[Trajectory]],
    expected: dict[str, torch.Tensor],
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    """Five steps move the float32 masters in the direction of plain float32 training, and resume bit for bit."""
    plain = load_file(tiny_checkpoint / "model.safetensors")
    wanted = torch.cat([(expected[name] - plain[name]).flatten() for name in sorted(expected)])
    settings = LearnerSettings.model_validate(
        BASE | {"ranks": 2, "zero_stage": zero_stage, "dtype": "bfloat16", "micro_batch_tokens": 70}
    )
    with forked_gang(tiny_checkpoint, settings) as gang:
        start = masters(gang, tmp_path / "start")
        for batch in batches:
            metrics = gang.train_step(batch)
            assert metrics["optimizer_steps"] == 1
        end = masters(gang, tmp_path / "end")
        assert torch.nn.functional.cosine_similarity(end - start, wanted, dim=0) > 0.9
        probe = gang.logprobs([3, 1, 4, 1, 5])
        gang.load_state(tmp_path / "start")
        assert torch.equal(masters(gang, tmp_path / "again"), start)
        for batch in batches:
            gang.train_step(batch)
        assert torch.equal(masters(gang, tmp_path / "again"), end)
        assert gang.logprobs([3, 1, 4, 1, 5]) == probe
