"""A gloo process group between a learner and its engines, apart from torch.distributed's global state."""

from __future__ import annotations

import socket
from datetime import timedelta

import torch
from torch.distributed import BroadcastOptions, PrefixStore, ProcessGroupGloo, TCPStore


class GlooGroup:
    """A group of `world_size` processes in which rank 0, the learner, broadcasts to all others."""

    def __init__(
        self, master_address: str, master_port: int, *, rank: int, world_size: int, timeout_s: float
    ) -> None:
        """Join the group, rank 0 serving the store that all meet in.

        Raises:
            TimeoutError: not all `world_size` processes joined within `timeout_s` seconds.
        """
        self.rank = rank
        self.world_size = world_size
        self._timeout = timedelta(seconds=timeout_s)
        self._where = f"rank {rank} of {world_size} at {master_address}:{master_port}"
        try:
            self._store = TCPStore(
                master_address,
                master_port,
                world_size,
                is_master=rank == 0,
                timeout=self._timeout,
                wait_for_workers=False,
            )
            options = ProcessGroupGloo._Options()
            options._timeout = self._timeout
            # By default gloo listens on whatever the host name resolves to, which other nodes may not reach.
            address = _address_towards(master_address, master_port)
            options._devices = [ProcessGroupGloo.create_device(hostname=address)]
            store = PrefixStore("weight_sync", self._store)
            self._group = ProcessGroupGloo(store, rank, world_size, options)
        except RuntimeError as error:
            raise TimeoutError(
                f"the weight-sync group did not form within {timeout_s:g} s ({self._where}): {error}; "
                "check that every engine is alive and can reach the learner's node"
            ) from error

    def broadcast(self, tensor: torch.Tensor, what: str) -> None:
        """Broadcast `tensor` from rank 0, in place on all others; returns when it has arrived.

        Raises:
            TimeoutError: a peer did not take part in time, or is gone; the group is then unusable.
        """
        options = BroadcastOptions()
        options.rootRank = 0
        options.rootTensor = 0
        options.timeout = self._timeout
        try:
            self._group.broadcast([tensor], options).wait()
        except RuntimeError as error:
            raise TimeoutError(
                f"the broadcast of {what} failed or took longer than {self._timeout.total_seconds():g} s "
                f"({self._where}): {error}; restart the engines that are gone and connect again"
            ) from error

    def close(self) -> None:
        """Leave the group."""
        del self._group, self._store


def _address_towards(host: str, port: int) -> str:
    """This machine's own address on the way to `host`; sends nothing."""
    family, kind, proto, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, proto) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])
