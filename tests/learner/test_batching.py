"""Batching: every token comes exactly once, budgets are kept, and the order of arrival changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.batching import Sample, collate, make_samples, pack, packing, plan_steps, split_over_ranks

Make = Callable[..., Any]  # the factories in conftest.py


def samples_of(lengths: list[int]) -> list[Sample]:
    """Samples in which all token ids are different, so that each token can be traced."""
    out, start = [], 0
    for index, length in enumerate(lengths):
        ids = np.arange(start, start + length)
        sampled = ids % 3 != 0
        sampled[0], sampled[-1] = False, True
        out.append(Sample(index, f"s{index}", ids, sampled, -ids.astype(np.float32), float(index)))
        start += length
    return out


lengths = st.lists(st.integers(2, 50), min_size=1, max_size=40)


@given(lengths, st.integers(2, 120))
def test_packs_every_sample_once_within_budget(sizes: list[int], budget: int) -> None:
    samples = samples_of(sizes)
    batches = pack(samples, budget)
    assert sorted(s.index for b in batches for s in b) == list(range(len(samples)))
    sums = [sum(len(s) for s in batch) for batch in batches]
    assert all(total <= budget or len(batch) == 1 for total, batch in zip(sums, batches, strict=True))
    assert sum(total <= budget / 2 for total in sums) <= 1, "two micro-batches would have fitted into one"
    assert pack(samples[::-1], budget) == batches


@given(lengths, st.integers(2, 120), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.randoms())
def test_plan(sizes: list[int], budget: int, ranks: int, epochs: int, minibatches: int, random: object) -> None:
    samples = samples_of(sizes)
    kinds = {
        "ppo_epochs": epochs,
        "minibatches": minibatches,
        "micro_batch_tokens": budget,
        "logit_chunk_tokens": 7,
        "seed": (3, 1),
    }
    plan = plan_steps(samples, ranks=ranks, **kinds)
    mixed = list(samples)
    random.shuffle(mixed)
    assert plan_steps(mixed, ranks=ranks, **kinds) == plan
    per_epoch = min(minibatches, len(samples))
    assert all(len(steps) == epochs * per_epoch for steps in plan)
    for epoch in range(epochs):
        seen = []
        for number in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            shares = [steps[number] for steps in plan]
            assert len({len(share.micro_batches) for share in shares}) == 1
            assert len({share.head_chunks for share in shares}) == 1
            for share in shares:
                for batch, chunks in zip(share.micro_batches, share.head_chunks, strict=True):
                    assert sum(s.trained_tokens for s in batch) <= 7 * chunks
            here = [s for share in shares for batch in share.micro_batches for s in batch]
            assert {share.token_count for share in shares} == {sum(s.trained_tokens for s in here)}
            loads = [sum(len(s) for batch in share.micro_batches for s in batch) for share in shares]
            assert max(loads) - min(loads) <= max(len(s) for s in here)
            seen += [s.index for s in here]
        assert sorted(seen) == list(range(len(samples)))


@given(lengths)
def test_collate_keeps_exactly_the_sampled_tokens(sizes: list[int]) -> None:
    samples = samples_of(sizes)
    batch = collate(samples)
    wanted = [(int(t), int(t) - 1, s.advantage) for s in samples for t in s.token_ids[s.sampled]]
    for s, start, end in zip(samples, batch.boundaries, batch.boundaries[1:], strict=False):
        np.testing.assert_array_equal(batch.token_ids[start:end], s.token_ids)
    got = zip(batch.targets, batch.token_ids[batch.positions], batch.advantages, strict=True)
    assert [(int(t), int(p), float(a)) for t, p, a in got] == wanted
    np.testing.assert_array_equal(batch.logprobs, -batch.targets.astype(np.float32))
    assert batch.real_tokens == batch.token_ids.size == batch.boundaries[-1] == sum(sizes)
    assert (batch.weights == 1).all()


def test_empty_micro_batch_weighs_nothing() -> None:
    shares = split_over_ranks(samples_of([9, 9, 9]), 2, 9, 9)
    assert [len(s.micro_batches) for s in shares] == [2, 2]
    empty = collate(shares[1].micro_batches[1])
    assert empty.weights.sum() == 0
    assert empty.real_tokens == 0


def test_canonical_order_and_nothing_to_train(make_trajectory: Make, random_trajectories: Make) -> None:
    trajectories = random_trajectories(np.random.default_rng(0), 3, 2)
    silent = make_trajectory(np.arange(5), np.zeros(5, bool), np.zeros(5, np.float32), group="g1", seed=9, reward=0.0)
    trajectories.append(silent)
    advantages = np.arange(7.0)
    straight = make_samples(trajectories, advantages)
    assert len(straight) == 6
    turned = make_samples(trajectories[::-1], advantages[::-1])
    assert [(s.index, s.label, s.advantage) for s in straight] == [(s.index, s.label, s.advantage) for s in turned]


def test_refuses_what_cannot_be_trained(make_trajectory: Make) -> None:
    ids, logprobs = np.arange(4), np.zeros(4, np.float32)
    first = make_trajectory(ids, np.ones(4, bool), logprobs, group="q", seed=3, reward=0.0)
    with pytest.raises(ValueError, match=r"group 'q' seed 3: sampled\[0\]"):
        make_samples([first], np.zeros(1))
    sampled = np.array([False, True, True, True])
    unscored = make_trajectory(ids, sampled, np.full(4, np.nan, np.float32), group="q", seed=4, reward=0.0)
    with pytest.raises(ValueError, match="seed 4: logprobs"):
        make_samples([unscored], np.zeros(1))
    with pytest.raises(ValueError, match="at least one sample"):
        split_over_ranks([], 1, 8, 8)


def test_packing_tells_how_full_micro_batches_and_how_even_ranks_are() -> None:
    one = split_over_ranks(samples_of([6, 4]), ranks=1, micro_batch_tokens=10, logit_chunk_tokens=9)
    assert packing([one], 10) == {"packing_efficiency": 1.0, "rank_balance": 1.0}
    uneven = split_over_ranks(samples_of([8, 4]), ranks=2, micro_batch_tokens=10, logit_chunk_tokens=9)
    assert packing([[share] for share in uneven], 10) == {"packing_efficiency": 12 / 20, "rank_balance": 12 / 16}
    lonely = split_over_ranks(samples_of([30]), ranks=3, micro_batch_tokens=10, logit_chunk_tokens=9)
    found = packing([[share] for share in lonely], 10)
    assert found == {"packing_efficiency": 30 / (30 + 2 * 10), "rank_balance": 1 / 3}, "it fills what it has to itself"
