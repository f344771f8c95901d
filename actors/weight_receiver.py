"""The receiving half of weight sync on CPU: a vLLM weight-transfer engine over gloo.

vLLM imports this module in its worker process, because `WorkerExtension` is named as
`worker_extension_cls`; importing it registers the backend `gloo`. It differs from vLLM's own NCCL engine,
which it extends, in its transport and in what it repacks afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine, NCCLWeightTransferUpdateInfo
from vllm.distributed.weight_transfer.packed_tensor import unpack_tensor
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

from actors.gloo_group import GlooGroup
from actors.orphans import exit_with_owner

BACKEND = "gloo"


@dataclass(kw_only=True)
class GlooInitInfo(WeightTransferInitInfo):
    """How an engine's workers join the learner's group."""

    master_address: str
    master_port: int
    rank_offset: int  # the rank of the engine's first worker
    world_size: int  # the learner and all workers of all engines
    bucket_bytes: int  # must be what the learner packs with: it sets the boundaries
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """Parameters that travel in one broadcast; the lists have one entry per parameter."""

    names: list[str]
    dtypes: list[torch.dtype]
    shapes: list[list[int]]
    sizes: list[int]  # bytes


def plan_buckets(info: NCCLWeightTransferUpdateInfo, bucket_bytes: int) -> Iterator[Bucket]:
    """Cut the parameters as vLLM's `pack_tensors` does: a bucket closes once it exceeds `bucket_bytes`."""
    bucket = Bucket([], [], [], [])
    for name, dtype_name, shape in zip(info.names, info.dtype_names, info.shapes, strict=True):
        dtype = getattr(torch, dtype_name)
        bucket.names.append(name)
        bucket.dtypes.append(dtype)
        bucket.shapes.append(shape)
        bucket.sizes.append(math.prod(shape) * dtype.itemsize)
        if sum(bucket.sizes) > bucket_bytes:
            yield bucket
            bucket = Bucket([], [], [], [])
    if bucket.names:
        yield bucket


class GlooWeightTransferEngine(NCCLWeightTransferEngine):
    """Receives packed buckets over gloo and loads them through vLLM's layerwise reload."""

    init_info_cls = GlooInitInfo
    model_update_group: GlooGroup | None

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Join the learner's group, leaving an earlier one: a learner that restarts connects again."""
        self.shutdown()
        parallel = self.parallel_config
        rank_in_engine = parallel.data_parallel_index * parallel.world_size + parallel.rank
        self._bucket_bytes = init_info.bucket_bytes
        group = GlooGroup(
            init_info.master_address,
            init_info.master_port,
            rank=init_info.rank_offset + rank_in_engine,
            world_size=init_info.world_size,
            timeout_s=init_info.timeout_s,
        )
        group.join()
        self.model_update_group = group

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        """Receive every bucket and hand its parameters to the model.

        Raises:
            RuntimeError: no group was joined before.
            TimeoutError: the learner sent nothing in time.
        """
        if self.model_update_group is None:
            raise RuntimeError("update_weights came before init_weight_transfer; connect the weight sender first")
        for bucket in plan_buckets(update_info, self._bucket_bytes):
            # A fresh buffer each: the layerwise reload keeps views of it until a layer is complete.
            packed = torch.empty(sum(bucket.sizes), dtype=torch.uint8)
            self.model_update_group.broadcast(packed, f"{bucket.names[0]} .. {bucket.names[-1]}")
            self.model.load_weights(unpack_tensor(packed, bucket.names, bucket.shapes, bucket.dtypes, bucket.sizes))

    def finish_weight_update(self) -> None:
        """Finish the layerwise reload, then repack what it does not see."""
        super().finish_weight_update()
        repack_tied_heads(self.model)

    def shutdown(self) -> None:
        if self.model_update_group is not None:
            self.model_update_group.close()
            self.model_update_group = None


def repack_tied_heads(model: torch.nn.Module) -> None:
    """Pack every output head anew that shares its weight with the embedding.

    On CPU vLLM multiplies by a packed copy of a weight, made in `process_weights_after_loading` and held by
    the layer's `cpu_linear`. A layerwise reload makes it anew for each layer that receives weights. A tied
    head receives none: its parameter is the embedding's, already right, while `cpu_linear` of the head
    still holds the copy of the old one.
    """
    layers_of: dict[int, list[VocabParallelEmbedding]] = {}
    for layer in model.modules():
        if isinstance(layer, VocabParallelEmbedding):
            layers_of.setdefault(id(layer.weight), []).append(layer)
    for layers in layers_of.values():
        for layer in layers if len(layers) > 1 else ():
            layer.quant_method.process_weights_after_loading(layer)


class WorkerExtension:
    """Mixed into vLLM's worker; exists to have this module imported there."""


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, GlooWeightTransferEngine)
exit_with_owner()
