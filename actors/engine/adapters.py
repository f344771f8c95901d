"""Low-rank adapters for an engine: only their factors are sent; the engine merges them with its checkpoint.

Hu et al. 2022 (arXiv 2106.09685), section 4.1: the merged weight is W + (alpha / rank) B A.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

A_SUFFIX, B_SUFFIX = ".lora_A", ".lora_B"
"""Suffixes to a weight's name, for its factors: A is `[rank, in]`; B is `[out, rank]`, already times alpha / rank."""


def merged(
    checkpoint: Iterable[tuple[str, torch.Tensor]], factors: dict[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of `checkpoint`; each one that has `factors` gets their product B A added, computed in float32.

    Raises:
        ValueError: factors belong to no tensor of the checkpoint. Raised after the last tensor.
    """
    left = dict(factors)
    for name, weight in checkpoint:
        a, b = left.pop(name + A_SUFFIX, None), left.pop(name + B_SUFFIX, None)
        if a is not None and b is not None:
            weight = (weight.float() + b.float() @ a.float()).to(weight.dtype)
        yield name, weight
    if left:
        raise ValueError(
            f"adapters came for {', '.join(sorted(left)[:4])}, which the engine's checkpoint does not have; start "
            "engines and learner from the same checkpoint"
        )
