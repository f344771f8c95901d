"""The announcement sent before each bucket of weights: it tells the engines how to unpack the bucket."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True, slots=True)
class Announcement:
    """Names and shapes of a bucket's tensors, in the order in which they are packed; all have one dtype.

    An announcement without names means that all weights have been sent.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str  # a name in torch, such as `float32`
    adapters: bool = False  # the tensors are the factors of low-rank adapters, see `actors/engine/adapters.py`

    @property
    def sizes(self) -> list[int]:
        """Bytes of each tensor."""
        width = getattr(torch, self.dtype).itemsize
        return [math.prod(shape) * width for shape in self.shapes]

    def encode(self) -> torch.Tensor:
        """The announcement as bytes of JSON, `[B]` uint8."""
        return torch.frombuffer(bytearray(json.dumps(asdict(self)).encode()), dtype=torch.uint8)

    @classmethod
    def decode(cls, encoded: torch.Tensor) -> Announcement:
        """The announcement from the bytes that `encode` made, `[B]` uint8."""
        fields = json.loads(encoded.numpy().tobytes())
        return cls(tuple(fields["names"]), tuple(map(tuple, fields["shapes"])), fields["dtype"], fields["adapters"])

    def views(self, packed: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Each name with its tensor, a view of the bucket `packed`, `[sum(sizes)]` uint8."""
        dtype = getattr(torch, self.dtype)
        for name, shape, part in zip(self.names, self.shapes, packed.split(self.sizes), strict=True):
            yield name, part.view(dtype).view(shape)
