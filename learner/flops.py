"""Floating-point work: what training on a batch takes, and what a GPU could do in that time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PEAK_TFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "B200": 2250.0}
"""Dense bfloat16 without sparsity, from NVIDIA's data sheets of the SXM cards."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a model's work depends on."""

    parameters: int
    layers: int
    width: int  # heads times head size
    device_name: str  # of the rank's GPU, or `cpu`


def training_flops(shape: ModelShape, lengths: Iterable[int]) -> float:
    """Work of forward and backward on sequences of so many tokens, recomputation not counted.

    6 N + 12 L H T per token, for N parameters, L layers of width H and T tokens in the sequence (Chowdhery et al.
    2022, arXiv 2204.02311, appendix B).
    """
    return float(sum(n * (6 * shape.parameters + 12 * shape.layers * shape.width * n) for n in lengths))


def peak_flops(device_name: str) -> float | None:
    """FLOP/s that the device reaches at best; None where it is not known."""
    return next((1e12 * tflops for name, tflops in _PEAK_TFLOPS.items() if name in device_name), None)


def work_metrics(
    shape: ModelShape, lengths: Sequence[int], trained: int, passes: int, seconds: float, peak: float | None
) -> dict[str, float]:
    """Metrics of a batch of sequences that were gone through `passes` times in `seconds`.

    `trained` of all their tokens are learnt from; `peak` is what all ranks together reach at best, in FLOP/s, and
    without it there is no `mfu`.
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
