"""The policy's loss compared with slow float64 loops over tokens and sequences, written from the papers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from learner.losses.aggregation import StepTotals
from learner.losses.policy_loss import LossTerms, TokenScores, TrainedTokens, policy_loss, score_logits
from learner.settings import LearnerSettings

CLIP_LOW, CLIP_HIGH, KL, ENTROPY, CAP = 0.2, 0.3, 0.07, 0.01, 1.5
TOTALS = StepTotals(tokens=97, sequences=11)  # of the whole step, so larger than this micro-batch
LENGTHS = (3, 17, 1, 24, 15)


def slow_scores(row: list[float], target: int, temperature: float) -> tuple[float, float]:
    z = [x / temperature for x in row]
    top = max(z)
    total = math.fsum(math.exp(x - top) for x in z)
    logp = [x - top - math.log(total) for x in z]
    return logp[target], -math.fsum(math.exp(lp) * lp for lp in logp)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_scores(temperature: float) -> None:
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(0, 4, (20, 33)), rng.integers(0, 33, 20)
    got = score_logits(torch.tensor(logits, dtype=torch.float32), torch.tensor(targets), temperature)
    for i in range(20):
        logprob, entropy = slow_scores(logits[i].tolist(), targets[i], temperature)
        assert got.logprobs[i].item() == pytest.approx(logprob, abs=5e-6)
        assert got.entropy[i].item() == pytest.approx(entropy, abs=5e-6)


@pytest.mark.parametrize(("temperature", "entropy_grad"), [(1.0, False), (0.6, False), (0.6, True)])
def test_gradient_of_scores(temperature: float, entropy_grad: bool) -> None:
    generator = torch.Generator().manual_seed(6)
    logits = 3 * torch.randn(20, 33, generator=generator, dtype=torch.float64)
    targets, weights = torch.randint(33, (20,), generator=generator), torch.randn(2, 20, generator=generator)
    exact = logits.requires_grad_()
    logp = torch.log_softmax(exact / temperature, -1)
    wanted = (weights[0] * logp[torch.arange(20), targets]).sum()
    if entropy_grad:
        wanted = wanted - (weights[1] * (logp.exp() * logp).sum(-1)).sum()
    wanted.backward()
    single = logits.detach().float().requires_grad_()
    got = score_logits(single, targets, temperature, entropy_grad=entropy_grad)
    (weights[0] * got.logprobs + weights[1] * got.entropy).sum().backward()
    torch.testing.assert_close(single.grad.double(), exact.grad, rtol=0, atol=5e-6)


def test_entropy_has_a_gradient_only_when_asked() -> None:
    logits = torch.randn(4, 7, requires_grad=True)
    targets = torch.arange(4)
    assert not score_logits(logits, targets, 1.0).entropy.requires_grad
    assert score_logits(logits, targets, 1.0, entropy_grad=True).entropy.requires_grad


@dataclass(frozen=True)
class Token:
    """One token in plain numbers. `frozen` is the log-probability without gradient: `new` before a small change."""

    new: float
    frozen: float
    sampler: float
    old: float
    ref: float
    entropy: float
    advantage: float


def made_up(seed: int = 2) -> list[list[Token]]:
    """Sequences whose ratios reach every clip, at both signs of the advantage."""
    rng = np.random.default_rng(seed)
    sequences = []
    for length in LENGTHS:
        shift = rng.normal(0, 0.4)
        tokens = []
        for _ in range(length):
            new = -rng.random() * 5
            old = new + shift + rng.normal(0, 0.6)
            ref, sampler = new + rng.normal(0, 0.3), old + rng.normal(0, 0.4)
            tokens.append(Token(new, new, sampler, old, ref, rng.random(), rng.normal()))
        sequences.append(tokens)
    return sequences


def slow_surrogate(token: Token, sequence: list[Token], s: LearnerSettings) -> float:
    """One token's loss by the definition in each paper, importance weight included."""
    corrected = s.importance in ("truncate", "mask")

    def base(t: Token) -> float:
        return t.old if corrected else t.sampler

    low, high, advantage = 1 - s.clip_low, 1 + s.clip_high, token.advantage
    if s.loss == "cispo":
        clipped = min(max(math.exp(token.frozen - base(token)), low), high)
        value = -clipped * advantage * token.new
    else:
        ratio = math.exp(token.new - base(token))
        if s.loss == "gspo":
            mean = math.fsum(t.frozen - base(t) for t in sequence) / len(sequence)
            ratio = math.exp(mean) * math.exp(token.new) / math.exp(token.frozen)
        objective = min(ratio * advantage, min(max(ratio, low), high) * advantage)
        dual = s.dual_clip or (s.importance_cap if s.importance == "clip" else None)
        if dual is not None and advantage < 0:
            objective = max(objective, dual * advantage)
        value = -objective
    if not corrected:
        return value
    rho = math.exp(token.old - token.sampler)
    if s.importance == "truncate":
        return min(rho, s.importance_cap) * value
    return rho * value if 1 / s.importance_cap <= rho <= s.importance_cap else 0.0


def slow_kl(token: Token, estimator: str) -> float:
    d = token.new - token.ref
    return {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[estimator]


def slow_loss(sequences: list[list[Token]], s: LearnerSettings) -> float:
    total = 0.0
    for sequence in sequences:
        for token in sequence:
            value = slow_surrogate(token, sequence, s) - s.entropy_coef * token.entropy
            if s.kl_in == "loss":
                value += s.kl_coef * slow_kl(token, s.kl_estimator)
            if s.aggregation == "token_mean":
                total += value / TOTALS.tokens
            elif s.aggregation == "sequence_mean":
                total += value / len(sequence) / TOTALS.sequences
            else:
                total += value / s.aggregation_tokens / TOTALS.sequences
    return total


def fast_loss(sequences: list[list[Token]], s: LearnerSettings) -> tuple[LossTerms, torch.Tensor]:
    """The terms of one micro-batch, and its log-probabilities as a leaf tensor."""
    flat = [token for sequence in sequences for token in sequence]

    def column(name: str) -> torch.Tensor:
        return torch.tensor([getattr(token, name) for token in flat], dtype=torch.float64)

    leaf = column("new").requires_grad_()
    numbers = torch.tensor([number for number, sequence in enumerate(sequences) for _ in sequence])
    tokens = TrainedTokens(
        sampler_logprobs=column("sampler"),
        advantages=column("advantage"),
        weights=torch.ones(len(flat), dtype=torch.float64),
        sequence=numbers,
        old_logprobs=column("old"),
        ref_logprobs=column("ref"),
    )
    return policy_loss(TokenScores(leaf, column("entropy")), tokens, s, TOTALS, kl_coef=s.kl_coef), leaf


def settings(**changes: Any) -> LearnerSettings:
    base = {"clip_low": CLIP_LOW, "clip_high": CLIP_HIGH, "kl_coef": KL, "entropy_coef": ENTROPY}
    return LearnerSettings.model_validate(base | {"importance_cap": CAP} | changes)


CASES = {
    "ppo": settings(),
    "ppo, dual clip": settings(dual_clip=1.6),
    "ppo, k2, sequences": settings(kl_estimator="k2", aggregation="sequence_mean"),
    "ppo, Dr. GRPO": settings(aggregation="sequence_sum_token_norm", aggregation_tokens=29),
    "ppo, KL in the reward": settings(kl_in="reward", kl_estimator="k1"),
    "ppo, clipped against the sampler": settings(importance="clip"),
    "ppo, clipped against the sampler, dual clip of its own": settings(importance="clip", dual_clip=1.2),
    "ppo, truncated importance": settings(importance="truncate"),
    "ppo, masked importance": settings(importance="mask", dual_clip=2.0),
    "gspo": settings(loss="gspo", aggregation="sequence_mean"),
    "gspo, tokens, truncated importance": settings(loss="gspo", importance="truncate"),
    "cispo": settings(loss="cispo", clip_low=1.0),
    "cispo, both bounds, masked importance": settings(loss="cispo", importance="mask"),
}


@pytest.mark.parametrize("case", list(CASES))
def test_loss_and_gradient(case: str) -> None:
    s, sequences = CASES[case], made_up()
    terms, leaf = fast_loss(sequences, s)
    assert terms.loss.item() == pytest.approx(slow_loss(sequences, s), abs=1e-9)
    terms.loss.backward()
    assert leaf.grad is not None
    step, place = 1e-6, 0
    for number, sequence in enumerate(sequences):
        for at, token in enumerate(sequence):
            nudged = []
            for sign in (step, -step):
                moved = [*sequence[:at], replace(token, new=token.new + sign), *sequence[at + 1 :]]
                nudged.append(slow_loss([*sequences[:number], moved, *sequences[number + 1 :]], s))
            assert leaf.grad[place].item() == pytest.approx((nudged[0] - nudged[1]) / (2 * step), abs=1e-7)
            place += 1


def test_gspo_has_the_gradient_of_the_sequence_ratio() -> None:
    """With one advantage per sequence, GSPO-token equals GSPO: autograd through the geometric mean (equation 5)."""
    s = settings(loss="gspo", aggregation="sequence_mean", kl_coef=0, entropy_coef=0)
    sequences = [[replace(t, advantage=number - 2.2) for t in q] for number, q in enumerate(made_up())]
    terms, leaf = fast_loss(sequences, s)
    terms.loss.backward()
    plain = leaf.detach().clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for sequence, new in zip(sequences, plain.split(LENGTHS), strict=True):
        ratio = (new - torch.tensor([t.sampler for t in sequence], dtype=torch.float64)).mean().exp()
        advantage = sequence[0].advantage
        total = total - torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH) * advantage)
    (total / TOTALS.sequences).backward()
    assert terms.loss.item() == pytest.approx(total.item() / TOTALS.sequences, abs=1e-12)
    torch.testing.assert_close(leaf.grad, plain.grad, rtol=0, atol=1e-12)
    assert (leaf.grad == 0).any(), "a sequence was to be clipped"
    assert (leaf.grad != 0).any()


@pytest.mark.parametrize("case", list(CASES))
def test_does_not_depend_on_the_split_into_micro_batches(case: str) -> None:
    s, sequences = CASES[case], made_up()
    whole, leaf = fast_loss(sequences, s)
    whole.loss.backward()
    gradients, sums = [], dict.fromkeys(LossTerms.__slots__, 0.0)
    for part in (sequences[:2], sequences[2:3], sequences[3:]):
        terms, part_leaf = fast_loss(part, s)
        terms.loss.backward()
        gradients.append(part_leaf.grad)
        for name in sums:
            sums[name] += getattr(terms, name).item()
    torch.testing.assert_close(torch.cat(gradients), leaf.grad, rtol=0, atol=1e-12)
    for name in sums:
        if not name.endswith("_max"):
            assert sums[name] == pytest.approx(getattr(whole, name).item(), abs=1e-6), name


def test_terms() -> None:
    s, sequences = settings(dual_clip=2.0, importance="mask", aggregation="sequence_mean"), made_up()
    got, _ = fast_loss(sequences, s)
    rows = [t for sequence in sequences for t in sequence]
    ratios = [math.exp(t.new - t.old) for t in rows]
    to_sampler = [math.exp(t.new - t.sampler) for t in rows]
    rhos = [math.exp(t.old - t.sampler) for t in rows]
    kept = [1 / CAP <= rho <= CAP for rho in rhos]
    expected = {
        "kl_ref": [slow_kl(t, "k3") for t in rows],
        "entropy": [t.entropy for t in rows],
        "clipped_low": [t.advantage < 0 and r < 1 - CLIP_LOW for t, r in zip(rows, ratios, strict=True)],
        "clipped_high": [r > 1 + CLIP_HIGH if t.advantage > 0 else r > 2.0 for t, r in zip(rows, ratios, strict=True)],
        "importance": [rho if keep else 0.0 for rho, keep in zip(rhos, kept, strict=True)],
        "importance_cut": [not keep for keep in kept],
        "ratio": to_sampler,
        "approx_kl": [r - 1 - math.log(r) for r in to_sampler],
        "logprob_diff": [abs(math.log(r)) for r in to_sampler],
    }
    for name, values in expected.items():
        assert sum(values) > 0, name
        assert getattr(got, name).item() == pytest.approx(math.fsum(values) / TOTALS.tokens, abs=1e-6), name
    assert got.ratio_deviation_max.item() == pytest.approx(max(abs(r - 1) for r in to_sampler), abs=1e-9)
    assert got.logprob_diff_max.item() == pytest.approx(max(abs(math.log(r)) for r in to_sampler), abs=1e-9)


@pytest.mark.parametrize("case", list(CASES))
def test_a_token_without_weight_counts_nowhere(case: str) -> None:
    one = torch.tensor([-1.0], dtype=torch.float64)
    leaf = one.clone().requires_grad_()
    tokens = TrainedTokens(one * 3, one, torch.zeros_like(one), torch.zeros(1, dtype=torch.int64), one, one * 2)
    terms = policy_loss(TokenScores(leaf, -one), tokens, CASES[case], TOTALS, kl_coef=KL)
    terms.loss.backward()
    assert leaf.grad == 0
    assert all(getattr(terms, name) == 0 for name in LossTerms.__slots__)


def test_importance_needs_the_learners_own_logprobs() -> None:
    one = torch.tensor([-1.0])
    tokens = TrainedTokens(one, one, torch.ones(1), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"importance=mask needs old_logprobs"):
        policy_loss(TokenScores(one, one), tokens, settings(importance="mask"), TOTALS, kl_coef=0)
