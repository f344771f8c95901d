"""ZeRO's own marks on parameters and optimizers, for which DeepSpeed has no public names: they are read only here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Where the optimizers of ZeRO 3, of ZeRO 1 and 2, and that of bfloat16 keep this rank's float32 shards.
_MASTERS = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")


def partitioned(parameter: nn.Parameter) -> bool:
    """Whether ZeRO 3 has cut it up: no rank holds it whole."""
    return hasattr(parameter, "ds_id")


def has_shards(parameter: nn.Parameter) -> bool:
    """Whether any ZeRO stage has cut up its float32 value and moments."""
    return partitioned(parameter) or hasattr(parameter, "_hp_mapping")


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The shape of the whole parameter, also of one that no rank holds whole."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def shard_of(parameter: Any, value: Tensor) -> Tensor:
    """This rank's part of a value of a partitioned parameter; ZeRO pads values to equal parts."""
    length = parameter.ds_tensor.numel()
    padded = value.new_zeros(length * torch.distributed.get_world_size())
    padded[: value.numel()] = value.flatten()
    return padded.narrow(0, length * torch.distributed.get_rank(), length)


def master_shards(optimizer: Any) -> list[Tensor] | None:
    """The float32 shards that DeepSpeed's optimizer steps on this rank; None without ZeRO."""
    return next((list(getattr(optimizer, name)) for name in _MASTERS if hasattr(optimizer, name)), None)


def link_moments(optimizer: Any) -> None:
    """Let ZeRO 1 and 2 find each parameter's moments, through links that the first step would make."""
    link = getattr(optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()
