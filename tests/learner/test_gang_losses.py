"""The gang with every term that needs a batch to be scored first, compared with plain PyTorch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_gang import forked_gang
from transformers import AutoModelForCausalLM

from actors.episodes.trajectory import Trajectory
from learner.gang import LearnerGang
from learner.losses.bad_batches import NonFiniteError
from learner.rank import LearnerRank
from learner.settings import LearnerSettings

pytestmark = pytest.mark.engine

KL, TARGET, CAP, CLIP, LR, EPS = 0.05, 0.01, 1.3, 0.05, 3e-3, 1e-3
EPOCHS = 2
Expected = tuple[dict[str, torch.Tensor], list[float], list[float]]
PROBE = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]

BASE = {
    "loss": "gspo",
    "clip_low": CLIP,
    "clip_high": CLIP,
    "aggregation": "sequence_mean",
    "kl_coef": KL,
    "kl_in": "reward",
    "kl_estimator": "k1",
    "kl_target": TARGET,
    "importance": "truncate",
    "importance_cap": CAP,
    "estimator": "dr_grpo",
    "ppo_epochs": EPOCHS,
    "max_grad_norm": 100.0,
    "optimizer": {"lr": LR, "eps": EPS},
    "start_timeout_s": 120,
    "step_timeout_s": 60,
}
GANGS: dict[str, dict[str, Any]] = {
    "one rank": {"micro_batch_tokens": 60},
    "two ranks, ZeRO 2": {"ranks": 2, "zero_stage": 2, "micro_batch_tokens": 90},
    "two ranks, ZeRO 3": {"ranks": 2, "zero_stage": 3, "micro_batch_tokens": 400, "logit_chunk_tokens": 16},
}


def scores(model: Any, t: Trajectory) -> torch.Tensor:
    """Log-probabilities of the sampled tokens, from the model's own forward pass on one row."""
    ids = torch.tensor(t.token_ids)
    logp = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1], -1)
    return logp.gather(-1, ids[1:, None])[:, 0][torch.tensor(t.sampled[1:])]


@pytest.fixture(scope="module")
def batches(tiny_checkpoint: Path, random_trajectories: Callable[..., list[Trajectory]]) -> list[list[Trajectory]]:
    """Batches with the recorded log-probabilities of an engine that disagrees with the checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    rng = np.random.default_rng(8)

    @torch.no_grad()
    def score(ids: np.ndarray) -> np.ndarray:
        logp = torch.log_softmax(model(input_ids=torch.tensor(ids)[None]).logits[0, :-1], -1)
        chosen = logp.gather(-1, torch.tensor(ids)[1:, None])[:, 0].numpy()
        return np.minimum(chosen + rng.normal(0, 0.3, len(chosen)), 0).astype(np.float32)

    return [random_trajectories(rng, 3, 3, score=score) for _ in range(2)]


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path, batches: list[list[Trajectory]]) -> Expected:
    """Parameters after the batches, one row at a time; for each batch the KL coefficient and the effective share."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    reference = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    adamw = torch.optim.AdamW(model.parameters(), lr=LR, eps=EPS, weight_decay=0)
    coef, coefs, shares = KL, [], []
    for batch in batches:
        coefs.append(coef)
        with torch.no_grad():
            olds, refs = [scores(model, t) for t in batch], [scores(reference, t) for t in batch]
        rewards = [t.reward.total - coef * float((o - r).sum()) for t, o, r in zip(batch, olds, refs, strict=True)]
        kls = []
        stale = [float((o - torch.tensor(t.logprobs[t.sampled])).sum()) for t, o in zip(batch, olds, strict=True)]
        whole = [min(math.exp(log), CAP) for log in stale]
        share = sum(whole) ** 2 / sum(w * w for w in whole) / len(whole)
        assert share < 0.95
        shares.append(share)
        for _ in range(EPOCHS):
            differences = []
            for t, reward, old, ref in zip(batch, rewards, olds, refs, strict=True):
                group = [r for r, other in zip(rewards, batch, strict=True) if other.group == t.group]
                new = scores(model, t)
                weights = (old - torch.tensor(t.logprobs[t.sampled])).exp().clamp(max=CAP)
                ratio = (new.detach() - old).mean().exp() * (new - new.detach()).exp()
                advantage = reward - np.mean(group)
                surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
                (-(weights * surrogate).mean() / len(batch)).backward()
                differences.append(new.detach() - ref)
            adamw.step()
            adamw.zero_grad()
            kls.append(float(torch.cat(differences).mean()))
        coef *= 1 + 0.1 * min(max(np.mean(kls) / TARGET - 1, -0.2), 0.2)
    return {name: p.detach() for name, p in model.named_parameters()}, coefs, shares


@pytest.fixture(params=list(GANGS))
def gang(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path: Path) -> Iterator[LearnerGang]:
    settings = LearnerSettings.model_validate(BASE | GANGS[request.param])
    with forked_gang(tiny_checkpoint, settings, bad_batches=tmp_path / "bad") as running:
        yield running


def with_reward(batch: list[Trajectory], total: float) -> list[Trajectory]:
    """The batch with `total` as the first trajectory's reward."""
    return [replace(batch[0], reward=replace(batch[0].reward, total=total)), *batch[1:]]


def test_scored_first(
    gang: LearnerGang,
    batches: list[list[Trajectory]],
    expected: Expected,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    parameters, coefs, shares = expected
    first = gang.train_step(batches[0])
    assert 0 < first["importance_cut"] < 1
    assert first["importance_mean"] < CAP
    gang.save_state(tmp_path / "state")
    second = gang.train_step(batches[1][::-1])
    assert [first["kl_coef"], second["kl_coef"]] == pytest.approx(coefs, rel=1e-4)
    assert coefs[1] != coefs[0]
    assert [first["effective_sample"], second["effective_sample"]] == pytest.approx(shares, rel=1e-4)

    gang.save_pretrained(tmp_path / "policy")
    trained = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "policy").named_parameters())
    before = AutoModelForCausalLM.from_pretrained(tiny_checkpoint).state_dict()
    for name, wanted in parameters.items():
        torch.testing.assert_close(trained[name], wanted, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert (wanted - before[name]).abs().max() > 1e-4, f"{name} was to move"

    def unchanged(bad: list[Trajectory]) -> None:
        before = gang.logprobs(PROBE)
        assert gang.train_step(bad)["bad_steps"] == 1
        assert gang.logprobs(PROBE) == before

    # Here the loss is finite but the norm of its gradient is not: only ZeRO 2 sums the squares in float32.
    overflows = gang.settings.zero_stage == 2
    unchanged(with_reward(batches[0], 1e38 if overflows else -math.inf))
    unchanged(with_reward(batches[0], math.inf))
    with pytest.raises(NonFiniteError, match=r"group 'g0' seed 0; the batch is in .*batch-000005.*3 in a row"):
        gang.train_step(with_reward(batches[0], math.nan))
    dumps = [path.read_text().splitlines() for path in sorted((tmp_path / "bad").iterdir())]
    reasons = [json.loads(lines[0])["reason"] for lines in dumps]
    gradient, reward = "gradient of the policy is not finite at optimizer step 4", "reward is not finite"
    assert reasons == [gradient if overflows else reward, reward, reward]
    written = [json.loads(line) for line in dumps[1][1:]]
    assert [row["suspect"] for row in written] == [True] + [False] * 8
    assert written[0]["reward"]["total"] == math.inf
    assert written[0]["token_ids"] == batches[0][0].token_ids.tolist()

    gang.load_state(tmp_path / "state")
    again = gang.train_step(batches[1])
    untimed = second.keys() - {"step_seconds", "tokens_per_s", "peak_memory_gib"}
    assert {k: again[k] for k in untimed} == {k: second[k] for k in untimed}, "the coefficient is part of the state"


@pytest.fixture(scope="module")
def far_off(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy with such sharp distributions that most tokens have log-probabilities below -100."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    with torch.no_grad():
        model.model.norm.weight.mul_(60)
    path = tmp_path_factory.mktemp("sure")
    model.save_pretrained(path)
    return path


def test_what_is_not_finite_before_training_skips_the_batch(
    batches: list[list[Trajectory]], tiny_checkpoint: Path, far_off: Path, tmp_path: Path
) -> None:
    settings = LearnerSettings.model_validate(BASE | {"kl_estimator": "k3", "ranks": 2, "micro_batch_tokens": 90})
    unsure = np.where(batches[0][3].sampled, np.float32(np.nan), np.float32(0))
    without = [*batches[0][:3], replace(batches[0][3], logprobs=unsure), *batches[0][4:]]
    with forked_gang(far_off, settings, reference=tiny_checkpoint, bad_batches=tmp_path) as gang:
        for batch in (without, batches[0]):  # in the second, the penalty's exp(reference - policy) overflows float32
            before = gang.logprobs(PROBE)
            assert gang.train_step(batch).items() >= {("bad_steps", 1.0), ("optimizer_steps", 0.0)}
            assert gang.logprobs(PROBE) == before
        assert gang.batches_trained() == 2
    reasons = [json.loads(path.read_text().splitlines()[0]) for path in sorted(tmp_path.glob("batch-*.jsonl"))]
    assert reasons[0] == {"reason": "the engine's log-probability is not finite", "suspects": ["group 'g1' seed 0"]}
    assert reasons[1]["reason"] == "the KL penalty is not finite"
    assert reasons[1]["suspects"]


def count_reference(rank: LearnerRank) -> None:
    """Make the rank count the runs of its reference policy."""
    networks, ask = rank.networks, rank.networks.reference_logprobs
    networks.asked = 0

    def counted(*arguments: Any) -> Any:
        networks.asked += 1
        return ask(*arguments)

    networks.reference_logprobs = counted


def asked(rank: LearnerRank) -> int:
    return rank.networks.asked


@pytest.mark.parametrize(("kl_in", "times"), [("reward", 1), ("loss", EPOCHS)])
def test_the_reference_is_asked_once_where_the_batch_was_scored(
    kl_in: str, times: int, batches: list[list[Trajectory]], tiny_checkpoint: Path
) -> None:
    changes = {"kl_in": kl_in, "kl_estimator": "k3", "micro_batch_tokens": 4096, "importance": "off"}
    with forked_gang(tiny_checkpoint, LearnerSettings.model_validate(BASE | changes)) as gang:
        gang.on_ranks(count_reference)
        assert gang.train_step(batches[0])["kl_ref"] > 0
        assert gang.on_ranks(asked) == [times]
