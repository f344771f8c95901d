"""The sending half of weight sync: every parameter of the learner's policy, to every rollout worker's engine.

Weights go as one broadcast from learner rank 0 to all engine workers, over gloo on CPU and NCCL on GPUs. The
receiving half is `actors/weight_receiver.py` or vLLM's own NCCL engine. Importing this module imports vLLM.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
)
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine
from vllm.distributed.weight_transfer.packed_tensor import DEFAULT_PACKED_BUFFER_SIZE_BYTES, pack_tensors

from actors.gloo_group import GlooGroup
from actors.weight_receiver import GlooInitInfo

log = logging.getLogger(__name__)

_GRACE_S = 5.0  # for the engines' own error, once the group has not formed
DEFAULT_BUCKET_BYTES = DEFAULT_PACKED_BUFFER_SIZE_BYTES  # 1 GiB; a single larger parameter makes vLLM warn


class ModelSource(WeightSource):
    """The parameters of a module under their checkpoint names, whole and in the wire dtype.

    Under ZeRO-3 iterating gathers each parameter from all learner ranks, so all must iterate, in step.
    Parameters that share storage (tied embeddings) are sent once.
    """

    def __init__(self, module: torch.nn.Module, wire_dtype: torch.dtype) -> None:
        self._module = module
        self._wire_dtype = wire_dtype

    def metadata(self) -> list[ParamMeta]:
        return [
            ParamMeta(name, self._wire_dtype, tuple(getattr(parameter, "ds_shape", parameter.shape)))
            for name, parameter in self._module.named_parameters()
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self._module.named_parameters():
            if hasattr(parameter, "ds_id"):
                import deepspeed

                with deepspeed.zero.GatheredParameters([parameter]):
                    # The gathered values go away with the context, and a bucket is packed after it.
                    whole = parameter.detach().to(self._wire_dtype, copy=True)
            else:
                whole = parameter.detach().to(self._wire_dtype)
            yield name, whole


class RolloutWorkerClient(VLLMWeightSyncClient):
    """vLLM's weight-sync control calls, fanned out to the rollout workers, each wait with a deadline."""

    def __init__(self, workers: Sequence[ActorHandle], ranks_per_engine: int, timeout_s: float) -> None:
        self.workers = list(workers)
        self.version = -1  # of the weights under way; set by the sender before each round
        self._ranks_per_engine = ranks_per_engine
        self._timeout_s = timeout_s

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Have every engine join the group, its workers' ranks after the learner's and those before it."""
        infos = [{**init_info, "rank_offset": 1 + i * self._ranks_per_engine} for i in range(len(self.workers))]
        calls = [worker.init_weight_transfer.remote(info) for worker, info in zip(self.workers, infos, strict=True)]
        self._wait(calls, "join the weight-sync group")

    def start_weight_update(self) -> None:
        self._wait([worker.start_weight_update.remote() for worker in self.workers], "start a weight update")

    def update_weights(self, update_info: Any) -> None:
        self._wait([worker.update_weights.remote(update_info) for worker in self.workers], "receive the weights")

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Finish with `version`; vLLM's engines do not know ours and pass none."""
        version = self.version if weight_version is None else int(weight_version)
        calls = [worker.finish_weight_update.remote(version) for worker in self.workers]
        self._wait(calls, f"load the weights of version {version}")

    def _wait(self, calls: list[ray.ObjectRef], what: str) -> None:
        try:
            ray.get(calls, timeout=self._timeout_s)
        except GetTimeoutError as error:
            done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
            late = [i for i, call in enumerate(calls) if call not in done]
            raise TimeoutError(
                f"rollout workers {late} of {len(calls)} did not {what} within {self._timeout_s:g} s; "
                "restart them and connect again"
            ) from error


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    """How the learner opens the group; the fields travel on to the engines as `GlooInitInfo`."""

    backend: ClassVar[str] = "gloo"

    master_address: str
    world_size: int
    bucket_bytes: int
    timeout_s: float


class GlooTrainerWeightTransferEngine(NCCLTrainerWeightTransferEngine):
    """vLLM's NCCL sender with gloo as its transport: the round trip and its checks are inherited."""

    init_info_cls = GlooTrainerInitInfo
    model_update_group: GlooGroup | None

    @classmethod
    def trainer_init(
        cls, init_info: GlooTrainerInitInfo, *, client: VLLMWeightSyncClient, source: WeightSource | None = None
    ) -> Self:
        """Form the group with all engines, on the sending rank; the others only make ready to iterate.

        Raises:
            TimeoutError: an engine did not join in time.
            Exception: what `client` raised, as soon as it does.
        """
        if source is None:
            raise ValueError("sending weights needs a source of them; got source=None")
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        engine.packed_buffer_size_bytes = init_info.bucket_bytes
        if not engine.is_sender:
            return engine
        group = GlooGroup(
            init_info.master_address,
            0,
            rank=0,
            world_size=init_info.world_size,
            timeout_s=init_info.timeout_s,
        )
        joining = GlooInitInfo(
            master_address=init_info.master_address,
            master_port=group.port,
            rank_offset=1,
            world_size=init_info.world_size,
            bucket_bytes=init_info.bucket_bytes,
            timeout_s=init_info.timeout_s,
        )
        # Both sides block until the group is complete. An engine that fails never comes, so we don't wait on.
        called = _in_thread(lambda: client.init_weight_transfer_engine(asdict(joining)))
        formed = _in_thread(group.join)
        wait((called, formed), return_when=FIRST_EXCEPTION)
        wait((called,), timeout=_GRACE_S)
        for outcome in (called, formed):  # the engines' error says more than that the group did not form
            if outcome.done():
                outcome.result()
        engine.model_update_group = group
        return engine

    def _broadcast(self, source: WeightSource, meta: list[ParamMeta]) -> None:
        """Iterate the source on every rank, and on the sending one broadcast it in buckets."""
        if not self.is_sender:
            for _ in source:
                pass
            return
        if self.model_update_group is None:
            raise RuntimeError("the weight-sync group was left; connect the weight sender again")
        pairs = self._checked_iter(source, meta)
        while bucket := pack_tensors(pairs, lambda pair: pair[1], self.packed_buffer_size_bytes):
            self.model_update_group.broadcast(bucket.packed_tensor.cpu(), f"{bucket.names[0]} .. {bucket.names[-1]}")

    def shutdown(self) -> None:
        if self.model_update_group is not None:
            self.model_update_group.close()
            self.model_update_group = None


class WeightSender:
    """Publishes a learner rank's policy to the rollout workers. Make and use one on every learner rank.

    The rollout workers must be paused while `send` runs; the control loop sees to that.
    """

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
        """`module` has the checkpoint's parameter names; `ranks_per_engine` is its tensor-parallel size.

        `timeout_s` bounds every single wait. `master_address` defaults to this node's address in Ray.
        """
        self._rank = rank
        self._backend = backend
        self._source = ModelSource(module, wire_dtype)
        self._workers = list(workers)
        self._ranks_per_engine = ranks_per_engine
        self._timeout_s = timeout_s
        self._bucket_bytes = bucket_bytes
        self._master_address = master_address
        self._client: RolloutWorkerClient | None = None
        self._engine: TrainerWeightTransferEngine | None = None

    def connect(self, workers: Sequence[ActorHandle] | None = None) -> None:
        """Form the group with all workers; again, with the new `workers`, after any was restarted.

        Raises:
            TimeoutError: an engine did not join in time.
        """
        self.close()
        if workers is not None:
            self._workers = list(workers)
        self._client = RolloutWorkerClient(self._workers, self._ranks_per_engine, self._timeout_s)
        address = self._master_address or ray.util.get_node_ip_address()
        world_size = 1 + len(self._workers) * self._ranks_per_engine
        if self._backend == "nccl":
            self._engine = NCCLTrainerWeightTransferEngine.trainer_init(
                NCCLTrainerInitInfo(
                    master_address=address,
                    master_port=_free_port(),
                    world_size=world_size,
                    packed_buffer_size_bytes=self._bucket_bytes,
                    rank=self._rank,
                ),
                client=self._client,
                source=self._source,
            )
        else:
            self._engine = GlooTrainerWeightTransferEngine.trainer_init(
                GlooTrainerInitInfo(
                    master_address=address,
                    world_size=world_size,
                    bucket_bytes=self._bucket_bytes,
                    timeout_s=self._timeout_s,
                    rank=self._rank,
                ),
                client=self._client,
                source=self._source,
            )

    def send(self, version: int) -> None:
        """Send the module's parameters as they are now, to be known as `version`. Call on every rank.

        Raises:
            RuntimeError: not connected.
            TimeoutError: an engine or a broadcast was late. Engines that had begun must be restarted.
        """
        if self._engine is None or self._client is None:
            raise RuntimeError(f"version {version} cannot be sent before connect()")
        self._client.version = version
        started = time.perf_counter()
        self._engine.send_weights()
        if self._rank == 0:
            log.info(
                "sent version %d to %d engines in %.2f s", version, len(self._workers), time.perf_counter() - started
            )

    def close(self) -> None:
        """Leave the group."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None


def _in_thread(action: Callable[[], None]) -> Future[None]:
    """Run `action` in a daemon thread: no process stays to see the end of a wait that nobody needs."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            action()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="weight-sync-join", daemon=True).start()
    return future


def _free_port() -> int:
    """A TCP port that is free on this machine now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
