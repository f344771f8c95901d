"""Batches: from trajectories to the padded micro-batches that each rank runs.

Rows are padded on the right. With causal attention no real token can see the padding, so no mask is needed
and attention takes its fast causal path; sorting by length keeps the padding to a few per cent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from actors.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Sample:
    """What a rank needs of a trajectory. Arrays are `[T]`."""

    index: int  # place in the batch's canonical order
    label: str  # names the trajectory in errors
    token_ids: npt.NDArray[np.int64]
    sampled: npt.NDArray[np.bool_]
    logprobs: npt.NDArray[np.float32]  # the sampler's, nats
    advantage: float

    @property
    def trained_tokens(self) -> int:
        return int(self.sampled.sum())

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class OptimizerStep:
    """One rank's share of one optimizer step."""

    token_count: int  # trained tokens of the whole step, over all ranks
    micro_batches: tuple[tuple[Sample, ...], ...]  # as many on every rank; an empty one has no samples
    head_chunks: tuple[int, ...]  # per micro-batch, the same on every rank: parts in which its logits are computed


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Padded rows `[B, T]` and their `n` trained tokens, flat."""

    token_ids: npt.NDArray[np.int64]  # [B, T]
    positions: npt.NDArray[np.int64]  # [n] index into B*T of the token before the target, which predicts it
    targets: npt.NDArray[np.int64]  # [n] sampled token ids
    logprobs: npt.NDArray[np.float32]  # [n] the sampler's
    advantages: npt.NDArray[np.float32]  # [n]
    weights: npt.NDArray[np.float32]  # [n] 1, or 0 in an empty micro-batch
    real_tokens: int  # of B*T, those that are not padding


def make_samples(trajectories: Sequence[Trajectory], advantages: npt.NDArray[np.float64]) -> list[Sample]:
    """Samples in canonical order (group, seed, tokens), so that the order of arrival changes nothing.

    Trajectories without a sampled token are left out: they have nothing to train.

    Raises:
        ValueError: a trajectory's arrays differ in length, or its first token is sampled (nothing predicts it),
            or a sampled token's log-probability is not finite or above 0.
    """
    samples = []
    keys = [(t.group, t.seed, t.token_ids.tobytes()) for t in trajectories]
    for index, place in enumerate(sorted(range(len(trajectories)), key=keys.__getitem__)):
        t = trajectories[place]
        label = f"group {t.group!r} seed {t.seed}"
        if not len(t.token_ids) == len(t.sampled) == len(t.logprobs):
            raise ValueError(
                f"trajectory of {label}: token_ids, sampled and logprobs must have one entry per token, got "
                f"{len(t.token_ids)}, {len(t.sampled)}, {len(t.logprobs)}"
            )
        if not t.sampled.any():
            continue
        if t.sampled[0]:
            raise ValueError(f"trajectory of {label}: sampled[0] is true, but no token predicts it; give a prompt")
        recorded = t.logprobs[t.sampled]
        if not np.isfinite(recorded).all() or recorded.max() > 1e-3:
            raise ValueError(
                f"trajectory of {label}: logprobs of sampled tokens must be finite and at most 0, got "
                f"{recorded.min()} to {recorded.max()}; the rollout engine recorded them wrongly"
            )
        samples.append(Sample(index, label, t.token_ids, t.sampled, t.logprobs, float(advantages[place])))
    return samples


def pack(samples: Sequence[Sample], micro_batch_tokens: int) -> list[tuple[Sample, ...]]:
    """Micro-batches, longest rows first, each at most `micro_batch_tokens` with padding.

    A sample longer than that gets one of its own. Depends on the samples, not on their order.
    """
    batches: list[list[Sample]] = []
    for sample in sorted(samples, key=lambda s: (-len(s), s.index)):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0]) <= micro_batch_tokens:
            batches[-1].append(sample)
        else:
            batches.append([sample])
    return [tuple(batch) for batch in batches]


def split_over_ranks(
    samples: Sequence[Sample], ranks: int, micro_batch_tokens: int, logit_chunk_tokens: int
) -> list[OptimizerStep]:
    """One optimizer step's share of every rank, near-equal in tokens, with equally many micro-batches.

    The output head takes at most `logit_chunk_tokens` trained tokens of a micro-batch at a time.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("an optimizer step needs at least one sample with sampled tokens, got none")
    shares: list[list[Sample]] = [[] for _ in range(ranks)]
    for place, sample in enumerate(sorted(samples, key=lambda s: (-len(s), s.index))):
        lap, seat = divmod(place, ranks)
        shares[seat if lap % 2 == 0 else ranks - 1 - seat].append(sample)
    packed = [pack(share, micro_batch_tokens) for share in shares]
    count = max(len(batches) for batches in packed)
    tokens = sum(sample.trained_tokens for sample in samples)
    padded = [tuple(batches + [()] * (count - len(batches))) for batches in packed]
    trained = [max(sum(s.trained_tokens for s in batch) for batch in row) for row in zip(*padded, strict=True)]
    chunks = tuple(math.ceil(n / logit_chunk_tokens) for n in trained)
    return [OptimizerStep(tokens, batches, chunks) for batches in padded]


def plan_steps(
    samples: Sequence[Sample],
    *,
    ranks: int,
    ppo_epochs: int,
    minibatches: int,
    micro_batch_tokens: int,
    logit_chunk_tokens: int,
    seed: Sequence[int],
) -> list[list[OptimizerStep]]:
    """Every rank's optimizer steps of one batch, `[ranks][ppo_epochs * minibatches]`.

    Each epoch deals the samples anew into `minibatches` parts of near-equal count (fewer when there are fewer
    samples); `seed` fixes the dealing.
    """
    ordered = sorted(samples, key=lambda s: s.index)
    steps: list[list[OptimizerStep]] = [[] for _ in range(ranks)]
    parts = min(minibatches, len(ordered))
    for epoch in range(ppo_epochs):
        deal = np.random.default_rng([*seed, epoch]).permutation(len(ordered))
        for part in np.array_split(deal, max(parts, 1)):
            shares = split_over_ranks([ordered[i] for i in part], ranks, micro_batch_tokens, logit_chunk_tokens)
            for rank, share in enumerate(shares):
                steps[rank].append(share)
    return steps


def collate(samples: Sequence[Sample]) -> MicroBatch:
    """Pad `samples` to the longest. With none, one row of two tokens that weighs nothing."""
    if not samples:
        return MicroBatch(
            token_ids=np.zeros((1, 2), np.int64),
            positions=np.zeros(1, np.int64),
            targets=np.zeros(1, np.int64),
            logprobs=np.zeros(1, np.float32),
            advantages=np.zeros(1, np.float32),
            weights=np.zeros(1, np.float32),
            real_tokens=0,
        )
    width = max(len(s) for s in samples)
    token_ids = np.zeros((len(samples), width), np.int64)
    for row, sample in enumerate(samples):
        token_ids[row, : len(sample)] = sample.token_ids
    where = [np.flatnonzero(s.sampled) for s in samples]
    positions = [row * width + at - 1 for row, at in enumerate(where)]
    return MicroBatch(
        token_ids=token_ids,
        positions=np.concatenate(positions),
        targets=np.concatenate([s.token_ids[at] for s, at in zip(samples, where, strict=True)]),
        logprobs=np.concatenate([s.logprobs[at] for s, at in zip(samples, where, strict=True)]),
        advantages=np.concatenate(
            [np.full(len(at), s.advantage, np.float32) for s, at in zip(samples, where, strict=True)]
        ),
        weights=np.ones(sum(len(at) for at in where), np.float32),
        real_tokens=sum(len(s) for s in samples),
    )
