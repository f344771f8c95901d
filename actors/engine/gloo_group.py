"""A gloo process group of a learner and its engines, independent of torch.distributed's global state."""

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

    It is made in two steps, so that rank 0 can tell the others its port: the constructor opens the store where all
    processes meet; `join` waits for them.
    """

    def __init__(self, address: str, port: int, *, rank: int, world_size: int, timeout_s: float) -> None:
        """Rank 0 serves the store at `address`, on a free port if `port` is 0; the others connect to it.

        Raises:
            TimeoutError: the store could not be reached within `timeout_s` seconds.
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
        """Wait until all processes have joined.

        Raises:
            TimeoutError: a process did not join in time.
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
        """Broadcast `tensor` from rank 0; the others receive it in place. Returns when it has arrived.

        `what` names the tensor in errors. `check` is called from time to time during the wait; an exception that it
        raises ends the wait.

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
                # An exception keeps the frames that it passed through. With `work`, this frame would keep the group's
                # connections open, and the processes at their other ends would wait until their deadline.
                del work
        except RuntimeError as error:
            raise TimeoutError(
                f"the broadcast of {what} failed or took longer than {self._timeout.total_seconds():g} s "
                f"({self._where}): {error}; restart the engines that are gone and connect again"
            ) from error

    def close(self) -> None:
        """Leave the group; this object can't be used afterwards."""
        self.__dict__.pop("_group", None)
        self.__dict__.pop("_store", None)


def _address_towards(host: str, port: int) -> str:
    """This machine's own address on the route to `host`; sends nothing."""
    family, kind, proto, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, proto) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])
