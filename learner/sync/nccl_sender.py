"""Sends weights over NCCL, with vLLM's own sender and receiver; importing it imports vLLM.

When an engine fails, vLLM's own trainer side blocks in NCCL and never shows the engine's error. This sender waits for
both sides together, with a deadline.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import asdict
from typing import Self

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, VLLMWeightSyncClient, WeightSource
from vllm.distributed.weight_transfer.nccl_common import (
    NCCLWeightTransferInitInfo,
    trainer_init,
    worker_init_payload,
)
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLTrainerInitInfo,
    NCCLTrainerWeightTransferEngine,
    NCCLWeightTransferUpdateInfo,
)

from learner.sync.sync_client import RolloutWorkerClient, both
from learner.sync.weight_source import BucketSource, Reading

_GRACE_S = 5.0  # how long to wait for the engines' own error after the learner's side has failed


class NamedWeights(WeightSource):
    """A bucket source with vLLM's interface. Adapters come merged; each bucket is gathered when vLLM reads it."""

    def __init__(self, source: BucketSource) -> None:
        self._source = source

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(piece.name, self._source.wire_dtype, piece.shape) for piece in self._source.pieces]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self.read())

    def read(self) -> Reading:
        """A new pass over the weights, which another thread may end."""
        return Reading(self._source)


class NcclSender(NCCLTrainerWeightTransferEngine):
    """vLLM's NCCL sender, changed so that neither side waits for a failed one."""

    timeout_s = 300.0  # of joining the group, and of each exchange of weights

    @classmethod
    def connect(
        cls, source: BucketSource, client: RolloutWorkerClient, *, rank: int, address: str, bucket_bytes: int
    ) -> Self:
        """Form the group with all engines.

        Raises:
            TimeoutError: an engine did not join in time.
            Exception: an engine's own error, as soon as it is raised.
        """
        info = NCCLTrainerInitInfo(
            master_address=address,
            master_port=_free_port(),
            world_size=client.world_size,
            packed_buffer_size_bytes=bucket_bytes,
            rank=rank,
        )
        cls.timeout_s = client.timeout_s
        return cls.trainer_init(info, client=client, source=NamedWeights(source))

    @classmethod
    def trainer_init(
        cls, init_info: NCCLTrainerInitInfo, *, client: VLLMWeightSyncClient, source: WeightSource | None = None
    ) -> Self:
        """As in vLLM, but raises an engine's error at once."""
        if source is None:
            raise ValueError("source=None: sending weights needs a source; give a WeightSource")
        wire = {
            "packed": init_info.packed,
            "packed_buffer_size_bytes": init_info.packed_buffer_size_bytes,
            "packed_num_buffers": init_info.packed_num_buffers,
        }
        sender = cls(client=client, source=source, is_sender=init_info.is_sender, **wire)
        if not sender.is_sender:
            return sender
        joining = NCCLWeightTransferInitInfo(
            master_address=init_info.master_address,
            master_port=init_info.master_port,
            rank_offset=1,
            world_size=init_info.world_size,
            **wire,
        )

        def open_endpoint() -> None:
            sender.model_update_group = trainer_init(init_info)

        both(
            lambda: client.init_weight_transfer_engine(worker_init_payload(joining)),
            open_endpoint,
            what="join the weight-sync group",
            timeout_s=cls.timeout_s + _GRACE_S,
            grace_s=_GRACE_S,
        )
        return sender

    def send_weights(self) -> None:
        """As in vLLM, but an engine that fails or is late ends the wait for the broadcast.

        The other ranks gather together with this one, so after an error it gathers all remaining buckets before it
        raises.

        Raises:
            TimeoutError: an engine was late. It then has a mixture of old and new weights and must be restarted.
            Exception: an engine's own error.
        """
        source = self.source
        assert isinstance(source, NamedWeights)
        meta = source.metadata()
        if not self.is_sender:
            self._broadcast(source, meta)
            self._post_send_sync()
            return
        info = NCCLWeightTransferUpdateInfo(
            names=[m.name for m in meta],
            dtype_names=[str(m.dtype).removeprefix("torch.") for m in meta],
            shapes=[list(m.shape) for m in meta],
        )
        reading = source.read()
        try:
            self.client.start_weight_update()
            both(
                lambda: self.client.update_weights(asdict(info)),
                lambda: self._broadcast(reading, meta),
                what="exchange the weights",
                timeout_s=self.timeout_s + _GRACE_S,
                grace_s=_GRACE_S,
            )
        finally:
            reading.end()
        self.client.finish_weight_update()
        self._post_send_sync()


def _free_port() -> int:
    """A TCP port that is free on this machine now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
