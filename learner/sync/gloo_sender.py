"""Sends weights over gloo: gathers and packs the next bucket while the current one is sent."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from actors.engine.announcement import Announcement
from actors.engine.gloo_group import GlooGroup
from learner.sync.sync_client import RolloutWorkerClient, both
from learner.sync.weight_source import Bucket, BucketSource

_GRACE_S = 5.0  # how long to wait for the engines' own error when the group could not be formed
_BUFFERS = 2


class GlooSender:
    """One rank's part. Only rank 0 sends to the engines; the other ranks take part in the gathering."""

    def __init__(self, source: BucketSource, client: RolloutWorkerClient, *, rank: int) -> None:
        self._source = source
        self._client = client
        self._is_sender = rank == 0
        self._group: GlooGroup | None = None
        self._buffers: list[torch.Tensor] = []

    def connect(self, address: str) -> None:
        """Form the group with all engines, over a store at `address`.

        Raises:
            TimeoutError: an engine did not join in time.
            Exception: an engine's own error, as soon as it is raised.
        """
        if not self._is_sender:
            return
        world_size, timeout_s = self._client.world_size, self._client.timeout_s
        group = GlooGroup(address, 0, rank=0, world_size=world_size, timeout_s=timeout_s)
        joining = {
            "master_address": address,
            "master_port": group.port,
            "world_size": world_size,
            "timeout_s": timeout_s,
        }
        both(
            lambda: self._client.init_weight_transfer_engine(joining),
            group.join,
            what="join the weight-sync group",
            timeout_s=timeout_s + _GRACE_S,  # later than each side's own deadline, whose message is more precise
            grace_s=_GRACE_S,
        )
        self._group = group
        largest = max(bucket.size for bucket in self._source.buckets)
        self._buffers = [torch.empty(largest, dtype=torch.uint8) for _ in range(_BUFFERS)]

    def send_weights(self) -> None:
        """Send every bucket, then make the engines use the weights.

        Raises:
            TimeoutError: an engine was late; the message names it. The engines keep their old weights.
            Exception: an engine's own error.
        """
        if not self._is_sender:
            for bucket in self._source.buckets:
                bucket.gather(None)
            return
        failure = self._stream(self._begin())
        if failure is not None:
            raise failure
        self._client.end_update()
        self._client.finish_weight_update()

    def shutdown(self) -> None:
        """Leave the group."""
        if self._group is not None:
            self._group.close()
            self._group = None

    def _begin(self) -> Exception | None:
        """Make the engines receive; returns the error, if there is one."""
        try:
            self._client.start_weight_update()
            self._client.begin_update({})
        except Exception as error:
            return error
        return None

    def _stream(self, failure: BaseException | None) -> BaseException | None:
        """Gather and send all buckets, then announce the end; returns the first error, if there is one.

        The other ranks gather together with this one. So it gathers all buckets even after an error in sending, or
        after a `failure` before it began; otherwise the others would wait forever.
        """
        on_the_way: list[Future[None]] = []
        with ThreadPoolExecutor(1, thread_name_prefix="weight-sync") as lane:
            for number, bucket in enumerate(self._source.buckets):
                if number >= _BUFFERS:  # wait until the bucket that used this buffer before has been sent
                    failure = failure or on_the_way[number - _BUFFERS].exception()
                packed = self._buffers[number % _BUFFERS][: bucket.size] if failure is None else None
                bucket.gather(packed)
                if packed is not None:
                    on_the_way.append(lane.submit(self._transmit, number, bucket, packed))
            if failure is None:
                on_the_way.append(lane.submit(self._transmit_end))
        return failure or next((error for sent in on_the_way if (error := sent.exception())), None)

    def _transmit(self, number: int, bucket: Bucket, packed: torch.Tensor) -> None:
        names = bucket.announcement.names
        self._announce(bucket.announcement, number)
        self._broadcast(packed, number, f"bucket {number} of {len(self._source.buckets)} ({names[0]} .. {names[-1]})")

    def _transmit_end(self) -> None:
        count = len(self._source.buckets)
        self._announce(Announcement((), (), self._source.buckets[0].announcement.dtype), count)

    def _announce(self, announcement: Announcement, number: int) -> None:
        encoded = announcement.encode()
        self._broadcast(torch.tensor([len(encoded)]), number, f"the announcement of bucket {number}")
        self._broadcast(encoded, number, f"the announcement of bucket {number}")

    def _broadcast(self, tensor: torch.Tensor, received: int, what: str) -> None:
        """Broadcast `tensor` unless an engine has failed; `received` buckets should have arrived before."""
        if self._group is None:
            raise RuntimeError("the weight-sync group was closed; connect the weight sender again")
        try:
            self._group.broadcast(tensor, what, check=self._client.check)
        except TimeoutError as error:
            self.shutdown()  # a group that has lost a message can't be used again
            raise TimeoutError(f"{error}; {self._client.laggards(received)}") from error
