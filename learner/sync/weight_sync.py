"""The sending half of weight sync: sends the learner's policy to every rollout worker's engine.

Learner rank 0 broadcasts the weights to all engine workers, over gloo on CPU and over NCCL on GPUs. The receiving half
is `actors/engine/weight_receiver.py` or vLLM's own NCCL engine. Over gloo the engines generate while the weights
arrive, and pause only to replace their old weights; over NCCL they pause from the start. If the policy has adapters,
gloo sends only these; NCCL sends whole weights with the adapters merged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import ray
import torch
from ray.actor import ActorHandle

from learner.sync.gloo_sender import GlooSender
from learner.sync.sync_client import RolloutWorkerClient
from learner.sync.sync_report import SyncReport
from learner.sync.weight_source import BucketSource

if TYPE_CHECKING:
    from learner.sync.nccl_sender import NcclSender

log = logging.getLogger(__name__)

DEFAULT_BUCKET_BYTES = 64 * 2**20


class WeightSender:
    """Sends a learner rank's policy to the rollout workers. Create one on every rank, and call all of them alike."""

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        rank: int,
        backend: Literal["gloo", "nccl"],
        workers: Sequence[ActorHandle],
        ranks_per_engine: int = 1,
        wire_dtype: torch.dtype = torch.float32,
        timeout_s: float = 300.0,
        bucket_bytes: int = DEFAULT_BUCKET_BYTES,
        master_address: str | None = None,
    ) -> None:
        """`module` has the checkpoint's parameter names, with or without adapters.

        `ranks_per_engine` is an engine's tensor-parallel size. `timeout_s` limits every single wait. `bucket_bytes` is
        how much is gathered and sent at a time; the sender has two such buffers. `master_address` defaults to this
        node's address in Ray.
        """
        self._rank = rank
        self._backend = backend
        self._source = BucketSource(module, wire_dtype, bucket_bytes, merge=backend == "nccl")
        self._workers = list(workers)
        self._ranks_per_engine = ranks_per_engine
        self._timeout_s = timeout_s
        self._bucket_bytes = bucket_bytes
        self._master_address = master_address
        self._client: RolloutWorkerClient | None = None
        self._sender: GlooSender | NcclSender | None = None

    def connect(self, workers: Sequence[ActorHandle] | None = None) -> None:
        """Form the group with all workers. After a worker was restarted, call this again with the new `workers`.

        Raises:
            TimeoutError: an engine did not join in time.
            ray.exceptions.RayError: an engine failed to join.
        """
        self.close()
        if workers is not None:
            self._workers = list(workers)
        client = RolloutWorkerClient(self._workers, self._ranks_per_engine, self._timeout_s)
        address = self._master_address or ray.util.get_node_ip_address()
        if self._backend == "nccl":
            from learner.sync.nccl_sender import NcclSender

            self._sender = NcclSender.connect(
                self._source, client, rank=self._rank, address=address, bucket_bytes=self._bucket_bytes
            )
        else:
            sender = GlooSender(self._source, client, rank=self._rank)
            sender.connect(address)
            self._sender = sender
        self._client = client

    def send(self, version: int) -> SyncReport:
        """Send the module's current weights as weight version `version`. Call on every rank.

        Only rank 0's report has the engines' stall.

        Raises:
            RuntimeError: `connect` was not called before.
            TimeoutError: an engine or a broadcast was late; the message names the late engine.
        """
        if self._sender is None or self._client is None:
            raise RuntimeError(f"version {version} cannot be sent before connect()")
        self._client.version = version
        began = time.perf_counter()
        self._sender.send_weights()
        seconds = time.perf_counter() - began
        report = SyncReport(version, sum(bucket.size for bucket in self._source.buckets), seconds, self._client.stall_s)
        if self._rank == 0:
            log.info(
                "sent version %d to %d engines: %.1f MB in %.2f s, of which engines paused for %.3f s",
                version,
                len(self._workers),
                report.sent_bytes / 1e6,
                report.seconds,
                report.stall_s,
            )
        return report

    def close(self) -> None:
        """Leave the group."""
        if self._sender is not None:
            self._sender.shutdown()
            self._sender = None
