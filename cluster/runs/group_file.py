"""The groups of a checkpoint: finished groups that wait for their step, as JSON lines, which can't run code."""

from __future__ import annotations

import json
import logging
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from pydantic import TypeAdapter

from actors.episodes.trajectory import Trajectory

logger = logging.getLogger(__name__)

GROUPS = "groups.jsonl"
_PICKLED = "groups.pickle"  # the file of earlier versions

# The arrays of a trajectory: the type of their bytes in the file, and their type in memory.
_ARRAYS: dict[str, tuple[str, type[np.generic]]] = {
    "token_ids": ("<i8", np.int64),
    "sampled": ("u1", np.bool_),
    "logprobs": ("<f4", np.float32),
    "versions": ("<i8", np.int64),
}
_PLAIN: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(hint) for name, hint in get_type_hints(Trajectory).items() if name not in _ARRAYS
}


def write_groups(groups: Mapping[str, list[Trajectory]], folder: Path) -> None:
    """Write finished groups, one a line, so that episodes that are paid for are not played again."""
    if groups:
        lines = [
            # orjson accepts neither lone surrogates nor NaN.
            json.dumps({"group": name, "trajectories": [_to_row(t) for t in trajectories]}, separators=(",", ":"))
            for name, trajectories in groups.items()
        ]
        (folder / GROUPS).write_text("".join(line + "\n" for line in lines), encoding="ascii")


def read_groups(folder: Path) -> dict[str, list[Trajectory]]:
    """The groups that `write_groups` wrote; none and a warning if the file is damaged or of an earlier version."""
    path = folder / GROUPS
    if not path.is_file():
        if (folder / _PICKLED).is_file():
            logger.warning(
                "%s is of an earlier version and is not read, as a pickle can run code: the questions of its groups "
                "are played again; all else goes on as it was",
                folder / _PICKLED,
            )
        return {}
    try:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        return {line["group"]: [_from_row(row) for row in line["trajectories"]] for line in lines}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        logger.warning(
            "%s is damaged (%s): the questions of its groups are played again", path, reason or type(error).__name__
        )
        return {}


def _to_row(trajectory: Trajectory) -> dict[str, Any]:
    row = asdict(trajectory)
    return row | {name: _pack(row[name].astype(stored).tobytes()) for name, (stored, _) in _ARRAYS.items()}


def _from_row(row: dict[str, Any]) -> Trajectory:
    """A trajectory from its row.

    Raises:
        ValueError, TypeError, KeyError, zlib.error: the row is not that of a trajectory.
    """
    values: dict[str, Any] = {name: adapter.validate_python(row[name]) for name, adapter in _PLAIN.items()}
    arrays = {name: np.frombuffer(_unpack(row[name]), stored).astype(kept) for name, (stored, kept) in _ARRAYS.items()}
    if len(set(map(len, arrays.values()))) != 1:
        raise ValueError(f"the arrays of a trajectory of group {row['group']!r} differ in length")
    return Trajectory(**(values | arrays))


def _pack(raw: bytes) -> str:
    return b64encode(zlib.compress(raw, 1)).decode("ascii")


def _unpack(packed: str) -> bytes:
    return zlib.decompress(b64decode(packed, validate=True))
