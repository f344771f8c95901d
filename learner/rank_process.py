"""The process of one rank: a Ray actor with a `LearnerRank`. The module itself imports no torch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import ray

from actors.heavy_imports import heavy_imports
from actors.stacks import Whereabouts, whereabouts
from learner.settings import LearnerSettings

if TYPE_CHECKING:
    from learner.rank import LearnerRank


class RankProcess:
    """The Ray actor with one `LearnerRank`. It keeps torch and DeepSpeed out of the driver."""

    def __init__(self, settings: LearnerSettings) -> None:
        # Set these before torch is imported. Ray sets OMP_NUM_THREADS to the actor's share of CPUs, which may be 0.
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # don't spin: on CPU, the engines share the cores
        self.settings = settings
        self.rank: LearnerRank | None = None

    def open_store(self) -> tuple[str, int]:
        """Open the rendezvous store on a free port of this node; only for rank 0. Returns host and port."""
        from torch.distributed import TCPStore

        host = ray.util.get_node_ip_address()
        # The store picks its port itself: a port found free beforehand could be taken by another process.
        self.store = TCPStore(host, 0, self.settings.ranks, is_master=True, wait_for_workers=False)
        return host, self.store.port

    def warm(self) -> None:
        """Import DeepSpeed and the rank, so that all ranks do so at the same time before `start`."""
        with heavy_imports():
            from learner.deepspeed_engine import import_deepspeed

            import_deepspeed(self.settings.device)
            import learner.rank  # noqa: F401

    def start(self, rank: int, address: tuple[str, int], arguments: dict[str, Any]) -> None:
        """Build the rank; returns when all ranks are built."""
        from torch.distributed import TCPStore

        from learner.rank import LearnerRank

        store = self.store if rank == 0 else TCPStore(*address, self.settings.ranks, is_master=False)
        self.rank = LearnerRank(self.settings, rank=rank, store=store, **arguments)

    def whereabouts(self) -> Whereabouts:
        """The process's node and process id."""
        return whereabouts()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the rank."""
        return getattr(self.rank, method)(*arguments)
