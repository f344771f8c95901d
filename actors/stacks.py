"""Stack dumps of a hanging process's threads, taken with py-spy before the process is killed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

_DUMP_S = 15.0  # deadline for one process
_ALL_S = 60.0  # deadline for all processes together


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """The node and the process id of a Ray actor."""

    node_id: str  # Ray's
    pid: int


def whereabouts() -> Whereabouts:
    """The whereabouts of the Ray actor that calls this."""
    import ray

    return Whereabouts(ray.get_runtime_context().get_node_id(), os.getpid())


def dump_family(pid: int) -> str:
    """The stacks of a Python process on this machine and of its descendants, or the reason why there are none."""
    import psutil  # type: ignore[import-untyped]

    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return f"process {pid} is gone\n"
    return "\n".join(_dump(process.pid) for process in family)


def save_stacks(folder: Path, name: str, where: Iterable[Whereabouts]) -> Path | None:
    """Write the stacks of actors and of their descendants into a file of `folder`; each is dumped on its own node.

    Returns the file, or None if no stacks were taken. That is no error: the hanging processes are killed anyway.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    calls = [
        ray.remote(dump_family)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(place.node_id, soft=False))
        .remote(place.pid)
        for place in where
    ]
    done, _ = ray.wait(calls, num_returns=len(calls), timeout=_ALL_S) if calls else ([], [])
    texts = []
    for call in done:
        try:
            texts.append(ray.get(call))
        except RayError as error:
            logger.info("no stacks of %s: %s", name, error)
    return write_stacks(folder, name, "\n".join(texts)) if texts else None


def write_stacks(folder: Path, name: str, text: str) -> Path | None:
    """Write stacks into a file of `folder` with the UTC time and `name` in its name.

    Returns the file; or None if it can't be written, which is logged.
    """
    file = folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}_{name}.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        logger.warning("the stacks of %s can't be written to %s: %s", name, file, error)
        return None
    return file


def _dump(pid: int) -> str:
    program = Path(sys.executable).with_name("py-spy")
    try:
        done = subprocess.run(
            [str(program), "dump", "--pid", str(pid)], capture_output=True, text=True, timeout=_DUMP_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"process {pid}: py-spy gave nothing ({error})\n"
    return done.stdout if done.returncode == 0 else f"process {pid}: {done.stderr.strip()}\n"
