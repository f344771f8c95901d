"""The effective sample size compared with plain loops over sequences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.losses.effective_sample import effective_share, weight_sums

CAP = 2.0
Sequences = list[list[float]]
LOGS = st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=6), min_size=1, max_size=8)


def sums_of(sequences: Sequences) -> torch.Tensor:
    logs = torch.tensor([log for sequence in sequences for log in sequence], dtype=torch.float64)
    number = torch.tensor([i for i, sequence in enumerate(sequences) for _ in sequence])
    found = weight_sums(logs, torch.ones_like(logs), number, CAP)
    return torch.stack([found.weight, found.squared])


@given(LOGS)
def test_it_is_the_textbooks(sequences: Sequences) -> None:
    weights = [min(math.exp(sum(sequence)), CAP) for sequence in sequences]
    expected = sum(weights) ** 2 / sum(w * w for w in weights) / len(weights)
    assert effective_share(sums_of(sequences), len(sequences)) == pytest.approx(expected, rel=1e-6)


@given(LOGS, LOGS)
def test_micro_batches_add_up(one: Sequences, other: Sequences) -> None:
    torch.testing.assert_close(sums_of(one) + sums_of(other), sums_of(one + other))


@pytest.mark.parametrize(
    ("sequences", "share"),
    [
        ([[0.0]] * 4, 1.0),  # on-policy
        ([[-1.0], [-0.5, -0.5]], 1.0),  # equal weights, though small
        ([[9.0], [-90.0], [-90.0], [-90.0]], 0.25),  # one of four has all the weight
        ([[-1e6]] * 3, 1.0),  # no weight is lost to underflow
    ],
)
def test_known_cases(sequences: Sequences, share: float) -> None:
    assert effective_share(sums_of(sequences), len(sequences)) == pytest.approx(share)


def test_tokens_without_weight_count_nowhere() -> None:
    logs = torch.tensor([0.3, 5.0], dtype=torch.float64)
    found = weight_sums(logs, torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0, 1]), CAP)
    assert found.weight.item() == pytest.approx(math.exp(0.3))
    assert effective_share(torch.stack([found.weight, found.squared]), 1) == pytest.approx(1.0)


@pytest.mark.parametrize("sums", [[0.0, 0.0], [math.nan, 1.0], [math.inf, math.inf]])
def test_what_is_not_known_shortens_no_step(sums: list[float]) -> None:
    assert effective_share(torch.tensor(sums), 4) == 1.0
