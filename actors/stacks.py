"""The stacks: what the threads of a process that hangs are doing, taken by py-spy before somebody ends it."""

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

_DUMP_S = 15.0  # of one process
_ALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where an actor's process is."""

    node_id: str  # Ray's
    pid: int


def whereabouts() -> Whereabouts:
    """Of the actor that asks."""
    import ray

    return Whereabouts(ray.get_runtime_context().get_node_id(), os.getpid())


def dump_family(pid: int) -> str:
    """The stacks of a Python process on this machine and of those below it; or why there are none."""
    import psutil  # type: ignore[import-untyped]

    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return f"process {pid} is gone\n"
    return "\n".join(_dump(process.pid) for process in family)


def save_stacks(folder: Path, name: str, where: Iterable[Whereabouts]) -> Path | None:
    """Write the stacks of actors, and of the processes below them, into `folder`; each is dumped on its own node.

    Returns the file, or None where nothing could be had, which is logged and no error: what hangs is ended anyway.
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
    """Write stacks into a file of `folder` that tells whose they are and when they were taken."""
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
