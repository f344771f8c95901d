"""Floating-point work: how much a batch's training takes, and how much a GPU could do in that time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PEAK_TFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "B200": 2250.0}
"""Dense bfloat16 peaks in 1e12 FLOP/s, from NVIDIA's data sheets of the SXM cards."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers that a model's work depends on."""

    parameters: int
    layers: int
    width: int  # heads times head size
    device_name: str  # of the rank's GPU, or `cpu`


def training_flops(shape: ModelShape, lengths: Iterable[int]) -> float:
    """FLOPs of one forward and backward pass over sequences of these lengths, without recomputation.

    6 N + 12 L H T per token, for N parameters, L layers of width H and T tokens in the sequence (Chowdhery et al.
    2022, arXiv 2204.02311, appendix B).
    """
    return float(sum(n * (6 * shape.parameters + 12 * shape.layers * shape.width * n) for n in lengths))


def peak_flops(device_name: str) -> float | None:
    """The device's peak in FLOP/s; None for an unknown device."""
    return next((1e12 * tflops for name, tflops in _PEAK_TFLOPS.items() if name in device_name), None)


def work_metrics(
    shape: ModelShape, lengths: Sequence[int], trained: int, passes: int, seconds: float, peak: float | None
) -> dict[str, float]:
    """Metrics of a batch of sequences of these lengths, trained on `passes` times in `seconds`.

    `trained` is the number of trained tokens among all tokens; `peak` is the peak of all ranks together, in FLOP/s.
    Without `peak` there is no `mfu`.
    """
    metrics = {
        "tokens_trained": float(trained),
        "tokens_total": float(sum(lengths)),
        "tokens_per_s": sum(lengths) * passes / seconds,
        "step_seconds": seconds,
    }
    if peak is not None:
        metrics["mfu"] = passes * training_flops(shape, lengths) / (seconds * peak)
    return metrics
