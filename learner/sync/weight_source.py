"""The weights that a learner rank sends: selects the tensors, splits them into buckets, gathers and packs these.

Under ZeRO-3 a bucket's parameters are gathered together; all ranks must gather the buckets in the same order.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actors.engine.adapters import A_SUFFIX, B_SUFFIX
from actors.engine.announcement import Announcement
from learner.deepspeed_engine import gathered, partitioned, whole_shape
from learner.lora import Weight, weights


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor to send, under the name that the engines use."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[nn.Parameter, ...]  # the parameters that must be gathered before `value` is called
    value: Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors that are gathered and sent together."""

    pieces: tuple[Piece, ...]
    announcement: Announcement

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(self.announcement.sizes)

    @torch.no_grad()
    def gather(self, packed: Tensor | None) -> None:
        """Gather the tensors, and pack them into `packed` (`[size]` uint8) unless it is None."""
        with _whole([part for piece in self.pieces for part in piece.parts]):
            if packed is not None:
                for piece, (_, view) in zip(self.pieces, self.announcement.views(packed), strict=True):
                    view.copy_(piece.value())


class BucketSource:
    """A module's weights in buckets: all weights, or only the adapters' factors if the module has adapters."""

    def __init__(self, module: nn.Module, wire_dtype: torch.dtype, bucket_bytes: int, *, merge: bool = False) -> None:
        """With `merge`, a module with adapters is sent as whole weights with the adapters merged.

        Raises:
            ValueError: `bucket_bytes` is not above 0.
        """
        if bucket_bytes <= 0:
            raise ValueError(f"bucket_bytes={bucket_bytes} must be above 0; set learner.sync_bucket_mib above 0")
        found = weights(module)  # type: ignore[arg-type]  # any module will do
        adapters = not merge and any(weight.adapter for weight in found)
        pieces = [p for w in found for p in (_factors(w) if adapters else [_whole_piece(w)])]
        dtype = str(wire_dtype).removeprefix("torch.")
        self.wire_dtype = wire_dtype
        self.buckets = list(_cut(pieces, dtype, bucket_bytes, adapters=adapters))

    @property
    def pieces(self) -> list[Piece]:
        """All tensors, in the order in which they are sent."""
        return [piece for bucket in self.buckets for piece in bucket.pieces]


class Reading:
    """One pass over a source, tensor by tensor, in any thread. All ranks must do it, because each bucket is gathered.

    Another thread may end the pass early; it then gathers the remaining buckets, as the other ranks still do.
    """

    def __init__(self, source: BucketSource) -> None:
        self._source = source
        self._left = list(source.buckets)
        self._gathering = threading.Lock()
        self._ended = False

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Each name with its tensor, a copy on the learner's device.

        Raises:
            RuntimeError: another thread has called `end`.
        """
        for _ in self._source.buckets:
            yield from self._next()

    def end(self) -> None:
        """Gather the remaining buckets without using them, for the other ranks' sake; `__iter__` then stops."""
        with self._gathering:
            self._ended = True
            for bucket in self._left:
                bucket.gather(None)
            self._left = []

    @torch.no_grad()
    def _next(self) -> list[tuple[str, Tensor]]:
        with self._gathering:
            if self._ended:
                raise RuntimeError("this reading of the weights was ended, because sending them has failed")
            bucket = self._left.pop(0)
            with _whole([part for piece in bucket.pieces for part in piece.parts]):
                # Copy, because the gathered parameters are freed at the end of the context.
                wire = self._source.wire_dtype
                return [(piece.name, piece.value().to(wire, copy=True)) for piece in bucket.pieces]


def _whole_piece(weight: Weight) -> Piece:
    if weight.adapter is None:
        return Piece(weight.name, weight.shape, (weight.parameter,), lambda: weight.parameter.detach())
    a, b, scaling = weight.adapter

    def merged() -> Tensor:
        return weight.parameter.float() + scaling * (b.float() @ a.float())

    return Piece(weight.name, weight.shape, (weight.parameter, a, b), merged)


def _factors(weight: Weight) -> list[Piece]:
    if weight.adapter is None:
        return []
    a, b, scaling = weight.adapter
    return [
        Piece(weight.name + A_SUFFIX, whole_shape(a), (a,), lambda: a.detach()),
        Piece(weight.name + B_SUFFIX, whole_shape(b), (b,), lambda: scaling * b.detach().float()),
    ]


def _cut(pieces: Sequence[Piece], dtype: str, bucket_bytes: int, *, adapters: bool) -> Iterator[Bucket]:
    """Split `pieces` into buckets of at most `bucket_bytes`; a larger tensor gets its own bucket."""
    width = getattr(torch, dtype).itemsize
    taken: list[Piece] = []
    size = 0
    for piece in pieces:
        more = math.prod(piece.shape) * width
        if taken and size + more > bucket_bytes:
            yield _bucket(taken, dtype, adapters=adapters)
            taken, size = [], 0
        taken.append(piece)
        size += more
    if taken:
        yield _bucket(taken, dtype, adapters=adapters)


def _bucket(pieces: Sequence[Piece], dtype: str, *, adapters: bool) -> Bucket:
    announcement = Announcement(tuple(p.name for p in pieces), tuple(p.shape for p in pieces), dtype, adapters)
    return Bucket(tuple(pieces), announcement)


def _whole(parameters: Sequence[nn.Parameter]):  # type: ignore[no-untyped-def]
    return gathered(parameters) if any(map(partitioned, parameters)) else nullcontext()
