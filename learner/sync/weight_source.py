"""The weights that a learner rank has to send: which tensors, cut into buckets, gathered and packed.

Under ZeRO-3 a bucket's parameters are gathered together; all ranks must go through the buckets in step.
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
    """A tensor to be sent, under the name that engines know."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[nn.Parameter, ...]  # what must be gathered for `value`
    value: Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors that are gathered and travel together."""

    pieces: tuple[Piece, ...]
    announcement: Announcement

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(self.announcement.sizes)

    @torch.no_grad()
    def gather(self, packed: Tensor | None) -> None:
        """Gather the tensors, and pack them into `packed`, `[size]` uint8, if one is given."""
        with _whole([part for piece in self.pieces for part in piece.parts]):
            if packed is not None:
                for piece, (_, view) in zip(self.pieces, self.announcement.views(packed), strict=True):
                    view.copy_(piece.value())


class BucketSource:
    """A module's weights in buckets: all of them or, of one with adapters, the adapters' factors only."""

    def __init__(self, module: nn.Module, wire_dtype: torch.dtype, bucket_bytes: int, *, merge: bool = False) -> None:
        """`merge` has adapters sent as whole weights, merged.

        Raises:
            ValueError: `bucket_bytes` is not above 0.
        """
        if bucket_bytes <= 0:
            raise ValueError(f"bucket_bytes={bucket_bytes} holds nothing; set learner.sync_bucket_mib above 0")
        found = weights(module)  # type: ignore[arg-type]  # any module will do
        adapters = not merge and any(weight.adapter for weight in found)
        pieces = [p for w in found for p in (_factors(w) if adapters else [_whole_piece(w)])]
        dtype = str(wire_dtype).removeprefix("torch.")
        self.wire_dtype = wire_dtype
        self.buckets = list(_cut(pieces, dtype, bucket_bytes, adapters=adapters))

    @property
    def pieces(self) -> list[Piece]:
        """All tensors, in the order they are sent."""
        return [piece for bucket in self.buckets for piece in bucket.pieces]


class Reading:
    """One reading of a source, tensor by tensor, in whatever thread; on all ranks, for it gathers by buckets.

    Another thread may end it. It then goes through the buckets that are left, as the other ranks do.
    """

    def __init__(self, source: BucketSource) -> None:
        self._source = source
        self._left = list(source.buckets)
        self._gathering = threading.Lock()
        self._ended = False

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Each name with a tensor of its own, on the learner's device.

        Raises:
            RuntimeError: the reading was ended.
        """
        for _ in self._source.buckets:
            yield from self._next()

    def end(self) -> None:
        """Gather what is left, for nobody; `__iter__` gathers no more."""
        with self._gathering:
            self._ended = True
            for bucket in self._left:
                bucket.gather(None)
            self._left = []

    @torch.no_grad()
    def _next(self) -> list[tuple[str, Tensor]]:
        with self._gathering:
            if self._ended:
                raise RuntimeError("this reading of the weights was ended, since sending them has failed")
            bucket = self._left.pop(0)
            with _whole([part for piece in bucket.pieces for part in piece.parts]):
                # What is gathered goes away with the context.
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
    """Buckets of `bucket_bytes` at most; a larger tensor has one to itself."""
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
