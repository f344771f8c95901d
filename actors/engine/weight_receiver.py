"""The receiving half of weight sync on CPU: a vLLM weight-transfer engine over gloo.

vLLM imports this module in its worker process, because `WorkerExtension` is named as `worker_extension_cls`; the import
registers the backend `gloo`. While the engine generates, a thread receives weights bucket by bucket into the shadow
weights. The engine is paused only to swap the shadow weights with its own.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader import get_model_loader

from actors.engine.adapters import merged
from actors.engine.announcement import Announcement
from actors.engine.gloo_group import GlooGroup
from actors.engine.orphans import exit_with_owner
from actors.engine.shadow_weights import ShadowWeights

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.config.weight_transfer import WeightTransferConfig

log = logging.getLogger(__name__)

BACKEND = "gloo"


@dataclass(kw_only=True)
class GlooInitInfo(WeightTransferInitInfo):
    """The information with which an engine's workers join the learner's group."""

    master_address: str
    master_port: int
    rank_offset: int  # the rank of the engine's first worker
    world_size: int  # the learner and all workers of all engines
    timeout_s: float  # deadline of every single wait


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """Empty: the learner announces each bucket in the group itself."""


class Reception(threading.Thread):
    """The thread that receives one version's weights into the shadow weights."""

    def __init__(self, group: GlooGroup, shadow: ShadowWeights, vllm_config: VllmConfig) -> None:
        super().__init__(name="weight-reception", daemon=True)
        self.buckets = 0  # received so far
        self.error: BaseException | None = None
        self._group = group
        self._shadow = shadow
        self._vllm_config = vllm_config

    def run(self) -> None:
        try:
            self._shadow.start()
            self._receive()
            self._shadow.finish()
        except BaseException as error:
            self.error = error  # raised in the engine's own thread, by `GlooWeightTransferEngine.receive_weights`

    def _receive(self) -> None:
        factors: dict[str, torch.Tensor] = {}
        while (announced := self._next_announcement()).names:
            # A new buffer for each bucket: the reload keeps views of it until a layer is complete.
            packed = torch.empty(sum(announced.sizes), dtype=torch.uint8)
            self._group.broadcast(packed, f"bucket {self.buckets} ({announced.names[0]} .. {announced.names[-1]})")
            self.buckets += 1
            if announced.adapters:
                factors.update(announced.views(packed))
            else:
                self._shadow.load(announced.views(packed))
        if factors:
            loader = get_model_loader(self._vllm_config.load_config)
            checkpoint = loader.get_all_weights(self._vllm_config.model_config, self._shadow.model)
            self._shadow.load(merged(checkpoint, factors))

    def _next_announcement(self) -> Announcement:
        length = torch.empty(1, dtype=torch.int64)
        self._group.broadcast(length, f"the announcement of bucket {self.buckets}")
        encoded = torch.empty(int(length), dtype=torch.uint8)
        self._group.broadcast(encoded, f"the announcement of bucket {self.buckets}")
        return Announcement.decode(encoded)


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """Receives weights while the engine generates.

    vLLM's calls mean: `start_weight_update` begins to receive and returns at once; `update_weights` waits until all
    weights have arrived, or raises the error that prevented it; `finish_weight_update` exchanges the weights, while
    the engine is paused.
    """

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self.reception: Reception | None = None
        self._group: GlooGroup | None = None
        self._shadow: ShadowWeights | None = None
        self._timeout_s = 0.0

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Join the learner's group. Leave an earlier group first: a learner that restarts connects again.

        Raises:
            TimeoutError: the group did not form in time.
        """
        self._leave_earlier_group()
        self._timeout_s = init_info.timeout_s
        parallel = self.parallel_config
        rank_in_engine = parallel.data_parallel_index * parallel.world_size + parallel.rank
        group = GlooGroup(
            init_info.master_address,
            init_info.master_port,
            rank=init_info.rank_offset + rank_in_engine,
            world_size=init_info.world_size,
            timeout_s=init_info.timeout_s,
        )
        group.join()
        self._group = group
        self._ready_shadow()

    def start_weight_update(self) -> None:
        """Begin to receive.

        Raises:
            RuntimeError: the worker has not joined a group.
        """
        if self._group is None:
            raise RuntimeError("a weight update came before the group was joined; connect the weight sender first")
        self.reception = Reception(self._group, self._ready_shadow(), self.vllm_config)
        self.reception.start()

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        """Wait until the weights have arrived.

        Raises:
            RuntimeError: `start_weight_update` was not called.
            TimeoutError: the learner sent nothing in time.
            ValueError: the weights that it sent are not this model's.
        """
        if self.reception is None:
            raise RuntimeError("update_weights came before start_weight_update")
        self._end_reception()

    def finish_weight_update(self) -> None:
        """Exchange the engine's weights for the received ones."""
        assert self._shadow is not None
        self._shadow.exchange()

    def shutdown(self) -> None:
        """Leave the group."""
        if self._group is not None:
            self._group.close()
            self._group = None

    def _leave_earlier_group(self) -> None:
        self.shutdown()
        if self.reception is not None:
            try:
                self._end_reception()
            except TimeoutError:
                log.warning("an earlier learner went away while it sent weights")

    def _ready_shadow(self) -> ShadowWeights:
        if self._shadow is None:
            self._shadow = ShadowWeights(self.model, self.vllm_config)
        return self._shadow

    def _end_reception(self) -> None:
        reception, self.reception = self.reception, None
        assert reception is not None
        reception.join(self._timeout_s)
        if reception.is_alive():
            self._shadow = None  # the thread may still write to it
            raise TimeoutError(f"weights were still arriving {self._timeout_s:g} s after they were asked for")
        if reception.error is not None:
            self._shadow = None  # left half loaded
            raise reception.error


class WorkerExtension:
    """A mixin for vLLM's worker; because of it, the worker imports this module."""

    weight_transfer_engine: Any
    _weight_update_active: bool

    def abandon_weight_update(self) -> None:
        """End an update that nobody will finish, because its sender is gone or another engine failed during it.
        Otherwise vLLM would refuse to start the next update."""
        if self._weight_update_active:
            self._weight_update_active = False
            self.weight_transfer_engine.reset_weight_update_target()

    def reception_progress(self) -> tuple[int, bool]:
        """Buckets received in the current update, and whether the reception has ended; `(0, True)` if there is none."""
        reception = self.weight_transfer_engine.reception
        return (0, True) if reception is None else (reception.buckets, not reception.is_alive())


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, GlooWeightTransferEngine)
exit_with_owner()
