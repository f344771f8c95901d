"""Batches: from trajectories to the packed micro-batches that each rank runs.

A micro-batch is one row: whole sequences end to end, without padding; `learner/attention.py` keeps them separate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from actors.episodes.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Sample:
    """The part of a trajectory that a rank needs. Arrays are `[T]`, or `[n]` with one entry per sampled token."""

    index: int  # in the batch's canonical order
    label: str  # the trajectory's name in error messages
    token_ids: npt.NDArray[np.int64]
    sampled: npt.NDArray[np.bool_]
    logprobs: npt.NDArray[np.float32]  # the sampler's, nats
    advantage: float | npt.NDArray[np.float32]  # one for all sampled tokens, or [T], read only where sampled
    old_logprobs: npt.NDArray[np.float32] | None = None  # [n] the learner's, nats, if the batch was scored first
    ref_logprobs: npt.NDArray[np.float32] | None = None  # [n] the reference policy's, nats, if scored first
    old_values: npt.NDArray[np.float32] | None = None  # [n] the critic's, if there is one
    returns: npt.NDArray[np.float32] | None = None  # [n] the critic's targets, if there is one

    @property
    def trained_tokens(self) -> int:
        return int(self.sampled.sum())

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class OptimizerStep:
    """One rank's share of one optimizer step."""

    token_count: int  # trained tokens of the whole step, over all ranks
    sequence_count: int  # sequences of the whole step, over all ranks
    micro_batches: tuple[tuple[Sample, ...], ...]  # the same number on every rank; an empty one has no samples
    head_chunks: tuple[int, ...]  # per micro-batch, equal on all ranks: in how many parts its logits are computed


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """S sequences end to end, with T tokens in all, of which `n` are trained."""

    token_ids: npt.NDArray[np.int64]  # [T]
    boundaries: npt.NDArray[np.int32]  # [S + 1] the start of each sequence, and T
    positions: npt.NDArray[np.int64]  # [n] index in the row of the token before each target, which predicts it
    targets: npt.NDArray[np.int64]  # [n] sampled token ids
    logprobs: npt.NDArray[np.float32]  # [n] the sampler's, nats
    advantages: npt.NDArray[np.float32]  # [n]
    weights: npt.NDArray[np.float32]  # [n] 1, or 0 in an empty micro-batch
    old_logprobs: npt.NDArray[np.float32] | None  # [n] the learner's, nats, if the batch was scored first
    ref_logprobs: npt.NDArray[np.float32] | None  # [n] the reference policy's, nats, if scored first
    old_values: npt.NDArray[np.float32] | None  # [n] the critic's, if there is one
    returns: npt.NDArray[np.float32] | None  # [n] the critic's targets, if there is one
    real_tokens: int  # T, or 0 in an empty micro-batch


def canonical_order(trajectories: Sequence[Trajectory]) -> list[int]:
    """Indices of `trajectories`, sorted by group, seed and tokens, so that the order of arrival does not matter."""
    keys = [(t.group, t.seed, t.token_ids.tobytes()) for t in trajectories]
    return sorted(range(len(trajectories)), key=keys.__getitem__)


def make_samples(
    trajectories: Sequence[Trajectory],
    advantages: npt.NDArray[np.float64] | Sequence[npt.NDArray[np.float64]],
) -> list[Sample]:
    """Samples in canonical order, so that the order of arrival changes nothing.

    Trajectories without a sampled token are left out: there is nothing to train in them.

    Args:
        advantages: `[n]`, one per trajectory, or `n` arrays `[T]`, one entry per token.

    Raises:
        ValueError: a trajectory's arrays or advantages differ in length, its first token is sampled (no token
            predicts it), or a sampled token's log-probability is not finite or above 0.
    """
    samples = []
    for index, place in enumerate(canonical_order(trajectories)):
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
        advantage = advantages[place]
        if np.shape(advantage) not in ((), t.sampled.shape):
            raise ValueError(
                f"trajectory of {label}: advantages must be one number or one per token, got "
                f"{np.shape(advantage)} for {t.sampled.shape}"
            )
        held = float(advantage) if np.ndim(advantage) == 0 else advantage.astype(np.float32)
        samples.append(Sample(index, label, t.token_ids, t.sampled, t.logprobs, held))
    return samples


def pack(samples: Sequence[Sample], micro_batch_tokens: int) -> list[tuple[Sample, ...]]:
    """Micro-batches of at most `micro_batch_tokens` each, by first-fit decreasing (Johnson 1973).

    A longer sample gets a micro-batch of its own. The result depends on the samples, not on their order.
    """
    batches: list[list[Sample]] = []
    room: list[int] = []
    for sample in _longest_first(samples):
        for place, free in enumerate(room):
            if len(sample) <= free:
                batches[place].append(sample)
                room[place] -= len(sample)
                break
        else:
            batches.append([sample])
            room.append(micro_batch_tokens - len(sample))
    return [tuple(batch) for batch in batches]


def split_over_ranks(
    samples: Sequence[Sample], ranks: int, micro_batch_tokens: int, logit_chunk_tokens: int
) -> list[OptimizerStep]:
    """Every rank's share of one optimizer step, all with the same number of micro-batches.

    Each sample, longest first, goes to the rank with the fewest tokens, so the ranks' token counts differ by at most
    the length of the longest sample.

    The output head takes at most `logit_chunk_tokens` trained tokens of a micro-batch at a time.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("an optimizer step needs at least one sample with sampled tokens, got none")
    shares: list[list[Sample]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for sample in _longest_first(samples):
        rank = loads.index(min(loads))
        shares[rank].append(sample)
        loads[rank] += len(sample)
    packed = [pack(share, micro_batch_tokens) for share in shares]
    count = max(len(batches) for batches in packed)
    tokens = sum(sample.trained_tokens for sample in samples)
    padded = [tuple(batches + [()] * (count - len(batches))) for batches in packed]
    trained = [max(sum(s.trained_tokens for s in batch) for batch in row) for row in zip(*padded, strict=True)]
    chunks = tuple(math.ceil(n / logit_chunk_tokens) for n in trained)
    return [OptimizerStep(tokens, len(samples), batches, chunks) for batches in padded]


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

    Each epoch shuffles the samples and splits them into `minibatches` parts of nearly equal count (fewer if there are
    fewer samples); `seed` determines the shuffles.
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


def packing(shares: Sequence[Sequence[OptimizerStep]], micro_batch_tokens: int) -> dict[str, float]:
    """Metrics of `shares`, `[ranks][steps]`: how full micro-batches are, and how evenly the ranks share the tokens.

    A sequence longer than `micro_batch_tokens` counts as one full micro-batch.
    """
    budget, most, total = 0, 0, 0
    for ranks in zip(*shares, strict=True):  # of one optimizer step
        loads = [[sum(map(len, batch)) for batch in share.micro_batches] for share in ranks]
        budget += sum(max(load, micro_batch_tokens) for rank in loads for load in rank)
        most += max(sum(rank) for rank in loads)
        total += sum(sum(rank) for rank in loads)
    return {"packing_efficiency": total / budget, "rank_balance": total / (len(shares) * most)}


def collate(samples: Sequence[Sample]) -> MicroBatch:
    """Lay `samples` end to end. Without samples the row is a placeholder: two tokens, one trained at weight 0."""
    if not samples:
        return MicroBatch(
            token_ids=np.zeros(2, np.int64),
            boundaries=np.array([0, 2], np.int32),
            positions=np.zeros(1, np.int64),
            targets=np.zeros(1, np.int64),
            logprobs=np.zeros(1, np.float32),
            advantages=np.zeros(1, np.float32),
            weights=np.zeros(1, np.float32),
            old_logprobs=None,
            ref_logprobs=np.zeros(1, np.float32),
            old_values=np.zeros(1, np.float32),
            returns=np.zeros(1, np.float32),
            real_tokens=0,
        )
    token_ids = np.concatenate([s.token_ids for s in samples])
    sampled = np.concatenate([s.sampled for s in samples])
    trained = np.flatnonzero(sampled)
    return MicroBatch(
        token_ids=token_ids,
        boundaries=np.cumsum([0, *(len(s) for s in samples)], dtype=np.int32),
        positions=trained - 1,
        targets=token_ids[trained],
        logprobs=np.concatenate([s.logprobs for s in samples])[trained],
        advantages=np.concatenate(
            [np.broadcast_to(np.asarray(s.advantage, np.float32), len(s))[s.sampled] for s in samples]
        ),
        weights=np.ones(len(trained), np.float32),
        old_logprobs=_end_to_end([s.old_logprobs for s in samples]),
        ref_logprobs=_end_to_end([s.ref_logprobs for s in samples]),
        old_values=_end_to_end([s.old_values for s in samples]),
        returns=_end_to_end([s.returns for s in samples]),
        real_tokens=len(token_ids),
    )


def _end_to_end(parts: Sequence[npt.NDArray[np.float32] | None]) -> npt.NDArray[np.float32] | None:
    """The arrays as one, or None if a sample has none."""
    given = [part for part in parts if part is not None]
    return np.concatenate(given) if len(given) == len(parts) else None


def _longest_first(samples: Sequence[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda s: (-len(s), s.index))
