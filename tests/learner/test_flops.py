"""Floating-point work: compared with a model's matrix products, counted one by one."""

from __future__ import annotations

import pytest

from learner.flops import ModelShape, peak_flops, training_flops


def test_work_is_three_times_the_forward_products() -> None:
    layers, width, inner, vocabulary, length = 2, 8, 24, 50, 10
    products = layers * (4 * width * width + 3 * width * inner) + vocabulary * width
    shape = ModelShape(parameters=products, layers=layers, width=width, device_name="cpu")
    scores_and_sums = 2 * layers * length * length * width  # Q K^T, and the weights times V
    forward = 2 * (products * length + scores_and_sums)
    assert training_flops(shape, [length, length]) == 2 * 3 * forward


@pytest.mark.parametrize(("name", "peak"), [("NVIDIA H100 80GB HBM3", 989e12), ("cpu", None)])
def test_peak(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
