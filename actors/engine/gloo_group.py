"""A gloo process group between a learner and its engines, apart from torch.distributed's global state."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import timedelta

import torch
from torch.distributed import BroadcastOptions, PrefixStore, ProcessGroupGloo, TCPStore

_POLL_S = 0.0005
_CHECK_S = 0.2


class GlooGroup:
    """A group of `world_size` processes in which rank 0, the learner, broadcasts to all others.

    Made in two steps, so that rank 0 can tell the others its port: the constructor opens the store that all
    meet in, `join` waits for them.
    """

    def __init__(self, address: str, port: int, *, rank: int, world_size: int, timeout_s: float) -> None:
        """Rank 0 serves the store at `address`, on a free port if `port` is 0; the others connect to it.

        Raises:
            TimeoutError: the store was not to be reached within `timeout_s` seconds.
        """
        self.rank = rank
        self.world_size = world_size
        self._address = address
        self._timeout = timedelta(seconds=timeout_s)
        try:
            self._store = TCPStore(
                address, port, world_size, is_master=rank == 0, timeout=self._timeout, wait_for_workers=False
            )
        except RuntimeError as error:
            raise TimeoutError(
                f"rank {rank} of {world_size} did not reach the weight-sync store at {address}:{port} within "
                f"{timeout_s:g} s: {error}; check that the learner is alive and its node can be reached"
            ) from error
        self.port = self._store.port
        self._where = f"rank {rank} of {world_size} at {address}:{self.port}"

    def join(self) -> None:
        """Wait until all are there.

        Raises:
            TimeoutError: one did not come in time.
        """
        try:
            options = ProcessGroupGloo._Options()
            options._timeout = self._timeout
            # By default gloo listens on whatever the host name resolves to, which other nodes may not reach.
            own_address = _address_towards(self._address, self.port)
            options._devices = [ProcessGroupGloo.create_device(hostname=own_address)]
            store = PrefixStore("weight_sync", self._store)
            self._group = ProcessGroupGloo(store, self.rank, self.world_size, options)
        except RuntimeError as error:
            raise TimeoutError(
                f"the weight-sync group did not form within {self._timeout.total_seconds():g} s ({self._where}): "
                f"{error}; check that every engine is alive and can reach the learner's node"
            ) from error

    def broadcast(self, tensor: torch.Tensor, what: str, *, check: Callable[[], None] | None = None) -> None:
        """Broadcast `tensor` from rank 0, in place on all others; returns when it has arrived.

        `check` is called now and then while it is on the way, and ends the wait by what it raises.

        Raises:
            TimeoutError: a peer did not take part in time, or is gone; the group is then unusable.
        """
        options = BroadcastOptions()
        options.rootRank = 0
        options.rootTensor = 0
        options.timeout = self._timeout
        try:
            work = self._group.broadcast([tensor], options)
            try:
                checked = time.monotonic()
                while check is not None and not work.is_completed():
                    time.sleep(_POLL_S)
                    if time.monotonic() - checked > _CHECK_S:
                        check()
                        checked = time.monotonic()
                work.wait()
            finally:
                # Errors keep the frames that they came through, and this would keep the group's connections open: who
                # waits at their other ends would wait for the whole deadline.
                del work
        except RuntimeError as error:
            raise TimeoutError(
                f"the broadcast of {what} failed or took longer than {self._timeout.total_seconds():g} s "
                f"({self._where}): {error}; restart the engines that are gone and connect again"
            ) from error

    def close(self) -> None:
        """Leave the group; the object is of no use afterwards."""
        self.__dict__.pop("_group", None)
        self.__dict__.pop("_store", None)


def _address_towards(host: str, port: int) -> str:
    """This machine's own address on the way to `host`; sends nothing."""
    family, kind, proto, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, proto) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])
