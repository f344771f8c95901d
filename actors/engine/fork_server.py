"""The server from which a process's engines are forked: it imports vLLM once for all of them.

The import takes ten CPU seconds. The server imports vLLM while its owner does, and an engine that starts later, such
as the replacement of a dead one, doesn't wait for the import. vLLM's API server does the same if
VLLM_WORKER_MULTIPROC_METHOD=forkserver. In a Ray actor vLLM insists on `spawn`, because a process with threads and a
Ray client is not safe to fork. The server has neither, and no CUDA context.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import context, forkserver, util
from typing import Any

from actors.child_process import environment
from actors.engine.arguments import engine_variables
from actors.engine.orphans import exit_with_owner
from actors.engine.scratch import Scratch
from actors.settings import EngineSettings

_scratch: Scratch | None = None  # the folder of this process's server, which removes it when it ends


class _Fork(context.ForkServerProcess):
    """An engine's process. It runs in the environment that its owner had when it made this object, not the server's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._environment = dict(os.environ)

    def run(self) -> None:
        import torch

        os.environ.clear()
        os.environ.update(self._environment)
        tempfile.tempdir = None  # forget the folder that the server cached
        if threads := os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(int(threads))
        exit_with_owner()
        super().run()


class _ForkContext(context.ForkServerContext):
    Process = _Fork  # type: ignore[assignment]


def start_engine_server(settings: EngineSettings) -> None:
    """Start this process's server unless it runs; returns while the server still imports vLLM.

    The server ends with this process and its engines. Call this before this process imports vLLM itself, so that vLLM
    logs as little here as in the engines.
    """
    global _scratch
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if _scratch is None:
        _scratch = Scratch()
        with _temporary_files_in(_scratch):
            util.get_temp_dir()  # makes the folder for the server's socket
    forkserver.set_forkserver_preload(["actors.engine.preload"])
    with environment(engine_variables(settings, _scratch.path)):
        forkserver.ensure_running()


def fork_engines() -> None:
    """Make vLLM fork the engines of this process from its server from now on."""
    from vllm.utils.system_utils import get_mp_context
    from vllm.v1.engine import utils

    def context_of_engines() -> _ForkContext:
        get_mp_context()  # it prepares the environment; the context it returns is for an engine's own workers
        return _ForkContext()

    utils.get_mp_context = context_of_engines


def engine_server_pid() -> int | None:
    """The process id of this process's server; None if it was not started."""
    return forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined, no-any-return]


@contextmanager
def _temporary_files_in(scratch: Scratch) -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, str(scratch.path)
    try:
        yield
    finally:
        tempfile.tempdir = before
