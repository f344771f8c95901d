"""PPO with a critic compared with plain PyTorch, on gangs of every shape; each loads the state of the one before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_gang import ForkedGang
from hostile import hostile_files
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from actors.episodes.trajectory import Trajectory
from learner.gang import LearnerError, LearnerGang
from learner.metrics import LEARNER_METRICS
from learner.settings import LearnerSettings

pytestmark = pytest.mark.engine

KL, CLIP, VALUE_CLIP, GAMMA, LAM, MAX_NORM, EPOCHS = 0.05, 0.2, 0.3, 0.99, 0.9, 0.4, 2
# A large eps keeps AdamW well-conditioned: otherwise rounding in a gradient near 0 flips the sign of a whole step.
POLICY, CRITIC = {"lr": 3e-3, "eps": 1e-3}, {"lr": 2e-2, "eps": 1e-3}
PROBE = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
TIMED = {"step_seconds", "tokens_per_s", "peak_memory_gib", "mfu"}

BASE: dict[str, Any] = {
    "estimator": "gae",
    "kl_coef": KL,
    "kl_in": "reward",
    "kl_estimator": "k1",
    "clip_low": CLIP,
    "clip_high": CLIP,
    "ppo_epochs": EPOCHS,
    "lr_by_staleness": False,
    "max_grad_norm": MAX_NORM,
    "optimizer": POLICY,
    "peak_tflops": 0.05,
    "start_timeout_s": 240,
    "step_timeout_s": 120,
}
CRITIC_SETTINGS = {"optimizer": CRITIC, "clip": VALUE_CLIP, "gamma": GAMMA, "lam": LAM}
GANGS: dict[str, dict[str, Any]] = {
    "1 rank, ZeRO 0": {"micro_batch_tokens": 4096},
    "2 ranks, ZeRO 2": {"ranks": 2, "zero_stage": 2, "micro_batch_tokens": 70},
    "4 ranks, ZeRO 3": {"ranks": 4, "zero_stage": 3, "micro_batch_tokens": 150, "logit_chunk_tokens": 16},
    "4 ranks, ZeRO 0": {"ranks": 4, "micro_batch_tokens": 50},
    "1 rank, ZeRO 3": {"zero_stage": 3, "micro_batch_tokens": 100, "gradient_checkpointing": True},
}


@dataclass
class Plain:
    """The results of plain PyTorch for the same batches, one row at a time."""

    kind: str
    after: list[dict[str, torch.Tensor]] = field(default_factory=list)  # the policy's parameters after each batch
    explained: list[float] = field(default_factory=list)
    value_loss: list[float] = field(default_factory=list)


def hidden_and_scores(model: Any, t: Trajectory) -> tuple[torch.Tensor, torch.Tensor]:
    """For the sampled tokens: the hidden states before them, and their log-probabilities."""
    ids, mask = torch.tensor(t.token_ids), torch.tensor(t.sampled[1:])
    out = model(input_ids=ids[None], output_hidden_states=True)
    logp = torch.log_softmax(out.logits[0, :-1], -1)
    return out.hidden_states[-1][0, :-1][mask], logp.gather(-1, ids[1:, None])[:, 0][mask]


def advantages(rewards: list[float], values: list[float]) -> list[float]:
    """GAE as in its paper: a sum of discounted one-step errors."""
    ahead = [*values[1:], 0.0]
    deltas = [r + GAMMA * n - v for r, n, v in zip(rewards, ahead, values, strict=True)]
    return [sum((GAMMA * LAM) ** k * d for k, d in enumerate(deltas[i:])) for i in range(len(deltas))]


def train_plainly(kind: str, checkpoint: Path, batches: list[list[Trajectory]]) -> Plain:
    policy, reference, backbone = (AutoModelForCausalLM.from_pretrained(checkpoint) for _ in range(3))
    head = torch.nn.Linear(64, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    critic_parameters = list(head.parameters()) + (list(backbone.parameters()) if kind == "model" else [])
    steps = [
        (torch.optim.AdamW(policy.parameters(), weight_decay=0, **POLICY), list(policy.parameters())),
        (torch.optim.AdamW(critic_parameters, weight_decay=0, **CRITIC), critic_parameters),
    ]

    def values(t: Trajectory, hidden: torch.Tensor) -> torch.Tensor:
        return head(hidden_and_scores(backbone, t)[0] if kind == "model" else hidden.detach())[:, 0]

    result = Plain(kind)
    for batch in batches:
        olds, gains, returns = [], [], []
        with torch.no_grad():
            for t in batch:
                hidden, logp = hidden_and_scores(policy, t)
                olds.append(values(t, hidden))
                rewards = (-KL * (logp - hidden_and_scores(reference, t)[1])).tolist()
                rewards[-1] += t.reward.total
                gains.append(torch.tensor(advantages(rewards, olds[-1].tolist())))
                returns.append(gains[-1] + olds[-1])
        all_gains, all_returns, all_olds = torch.cat(gains), torch.cat(returns), torch.cat(olds)
        result.explained.append(1 - float((all_returns - all_olds).var() / all_returns.var()))
        white = [(g - all_gains.mean()) / all_gains.std() for g in gains]
        losses = []
        for _ in range(EPOCHS):
            loss = torch.tensor(0.0)
            for t, old, gain, wanted in zip(batch, olds, white, returns, strict=True):
                hidden, logp = hidden_and_scores(policy, t)
                ratio = (logp - torch.tensor(t.logprobs[t.sampled])).exp()
                surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain)
                value = values(t, hidden)
                held = old + (value - old).clamp(-VALUE_CLIP, VALUE_CLIP)
                error = torch.maximum((value - wanted) ** 2, (held - wanted) ** 2).sum() / 2 / len(all_gains)
                (error - surrogate.sum() / len(all_gains)).backward()
                loss += error.detach()
            for optimizer, parameters in steps:
                torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(float(loss))
        result.value_loss.append(float(np.mean(losses)))
        result.after.append({name: p.detach().clone() for name, p in policy.named_parameters()})
    return result


@pytest.fixture(scope="module")
def batches(tiny_checkpoint: Path, random_trajectories: Callable[..., list[Trajectory]]) -> list[list[Trajectory]]:
    """Three batches; the second has fewer trajectories than the largest gang has ranks."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    rng = np.random.default_rng(9)

    @torch.no_grad()
    def score(ids: np.ndarray) -> np.ndarray:
        logp = torch.log_softmax(model(input_ids=torch.tensor(ids)[None]).logits[0, :-1], -1)
        return logp.gather(-1, torch.tensor(ids)[1:, None])[:, 0].numpy()

    return [random_trajectories(rng, groups, 3, score=score) for groups in (3, 1, 3)]


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path, batches: list[list[Trajectory]]) -> Plain:
    return train_plainly("model", tiny_checkpoint, batches)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which each gang of this module leaves its state for the next."""
    return tmp_path_factory.mktemp("states")


@pytest.fixture
def start(tiny_checkpoint: Path) -> Iterator[Callable[..., LearnerGang]]:
    running: list[LearnerGang] = []

    def start(kind: str, **changes: Any) -> LearnerGang:
        settings = LearnerSettings.model_validate(BASE | {"critic": {"kind": kind, **CRITIC_SETTINGS}} | changes)
        running.append(ForkedGang(settings, checkpoint=tiny_checkpoint, temperature=1.0))
        return running[-1]

    yield start
    for gang in running:
        gang.shutdown()


def check_policy(gang: LearnerGang, wanted: dict[str, torch.Tensor], path: Path) -> None:
    gang.save_pretrained(path)
    trained = dict(AutoModelForCausalLM.from_pretrained(path).named_parameters())
    for name, value in wanted.items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("shape", list(GANGS))
def test_every_gang_trains_alike_and_takes_up_any_state(
    shape: str,
    start: Callable[..., LearnerGang],
    batches: list[list[Trajectory]],
    expected: Plain,
    states: Path,
    tmp_path: Path,
) -> None:
    """Six optimizer steps in all; the last two start from a state that a gang of another shape has saved."""
    gang = start("model", **GANGS[shape])
    previous = sorted(states.iterdir(), key=lambda path: path.stat().st_mtime)
    for place in (0, 1):
        metrics = gang.train_step(batches[place])
        assert metrics["explained_variance"] == pytest.approx(expected.explained[place], abs=1e-4)
        assert metrics["value_loss"] == pytest.approx(expected.value_loss[place], rel=1e-4)
    assert set(metrics) == set(LEARNER_METRICS)
    check_policy(gang, expected.after[1], tmp_path / "policy")

    own = states / shape.replace(" ", "-")
    gang.save_state(own)
    third, probe = gang.train_step(batches[2]), gang.logprobs(PROBE)
    check_policy(gang, expected.after[2], tmp_path / "policy")
    gang.load_state(own)
    again = gang.train_step(batches[2])
    assert {k: again[k] for k in again.keys() - TIMED} == {k: third[k] for k in third.keys() - TIMED}
    assert gang.logprobs(PROBE) == probe, "a resumed gang must take the same steps, bit for bit"
    if previous:
        gang.load_state(previous[-1])
        gang.train_step(batches[2])
        check_policy(gang, expected.after[2], tmp_path / "policy")


def test_a_value_head_learns_and_leaves_the_policy_alone(
    start: Callable[..., LearnerGang], batches: list[list[Trajectory]], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    wanted = train_plainly("head", tiny_checkpoint, batches)
    gang = start("head", ranks=2, zero_stage=3, micro_batch_tokens=100)
    for place, batch in enumerate(batches):
        metrics = gang.train_step(batch)
        assert metrics["value_loss"] == pytest.approx(wanted.value_loss[place], rel=1e-4)
    check_policy(gang, wanted.after[-1], tmp_path / "policy")


def test_a_state_of_another_learner_or_none_is_refused(
    start: Callable[..., LearnerGang], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config = AutoConfig.from_pretrained(tiny_checkpoint)
    config.vocab_size = 70
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    one = start("head")
    one.save_state(tmp_path / "state")
    other = ForkedGang(one.settings, checkpoint=tmp_path / "other", temperature=1.0)
    try:
        with pytest.raises(LearnerError, match=r"embed_tokens.weight is \[61, 64\] there and \[70, 64\] here"):
            other.load_state(tmp_path / "state")
    finally:
        other.shutdown()
    hostile = hostile_files(tmp_path / "marker")
    for file in sorted((tmp_path / "state").iterdir()):
        sound = file.read_bytes()
        for content in hostile.values():
            file.write_bytes(content)
            with pytest.raises(LearnerError, match=rf"{file.name} is missing, damaged or not router-r1's"):
                one.load_state(tmp_path / "state")
        file.write_bytes(sound)
    assert not (tmp_path / "marker").exists()
    one.load_state(tmp_path / "state")
    facts = json.loads((tmp_path / "state" / "learner.json").read_text())
    (tmp_path / "state" / "learner.json").write_text(json.dumps(facts | {"networks": ["policy"]}))
    with pytest.raises(LearnerError, match=r"holds \['policy'\], this learner trains \['policy', 'critic'\]"):
        one.load_state(tmp_path / "state")
    with pytest.raises(LearnerError, match=r"FileNotFoundError: learner state .* has no learner\.json"):
        one.load_state(tmp_path)


def critic_of(gang: LearnerGang, path: Path) -> dict[str, torch.Tensor]:
    """The critic's parameters and moments."""
    gang.save_state(path)
    return load_file(path / "critic-00000.safetensors")


def test_a_bad_step_of_the_critic_is_its_own(
    start: Callable[..., LearnerGang], batches: list[list[Trajectory]], tmp_path: Path
) -> None:
    """A reward whose square overflows float32: the policy's step is taken and measured, and the KL's weight adapts."""
    gang = start("model", ranks=2, zero_stage=2, kl_estimator="k3", kl_target=1e-9, micro_batch_tokens=70)
    coefs = [gang.train_step(batches[0])["kl_coef"]]
    critic, probe = critic_of(gang, tmp_path / "before"), gang.logprobs(PROBE)
    reward = replace(batches[0][0].reward, total=1e25)
    metrics = gang.train_step([replace(batches[0][0], reward=reward), *batches[0][1:]])
    coefs.append(metrics["kl_coef"])
    assert (metrics["bad_steps"], metrics["optimizer_steps"]) == (1, 1)
    assert metrics["kl_ref"] > 0
    assert metrics["grad_norm"] > 0
    assert gang.logprobs(PROBE) != probe
    assert not metrics.keys() & {"value_loss", "critic_grad_norm"}
    after = critic_of(gang, tmp_path / "after")
    assert all(torch.equal(after[name], value) for name, value in critic.items())
    again = gang.train_step(batches[2])
    assert np.isfinite(again["value_loss"])
    coefs.append(again["kl_coef"])
    # The KL of all three batches is far above the target. If one KL had been lost, the weight would have gone down.
    assert coefs == pytest.approx([KL, KL * 1.02, KL * 1.02**2])


def test_a_bad_step_of_the_policy_stops_the_critic_too(
    start: Callable[..., LearnerGang], batches: list[list[Trajectory]], tmp_path: Path
) -> None:
    gang = start("head", ranks=2, zero_stage=3, micro_batch_tokens=70)
    gang.train_step(batches[0])
    critic, probe = critic_of(gang, tmp_path / "before"), gang.logprobs(PROBE)
    # So low recorded log-probabilities make ratios infinite, and with a negative advantage the loss too.
    spoilt = [replace(t, logprobs=np.where(t.sampled, np.float32(-1e4), np.float32(0))) for t in batches[0]]
    assert gang.train_step(spoilt).items() >= {("bad_steps", 1.0), ("optimizer_steps", 0.0)}
    after = critic_of(gang, tmp_path / "after")
    assert all(torch.equal(after[name], value) for name, value in critic.items())
    assert gang.logprobs(PROBE) == probe
