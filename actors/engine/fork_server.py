"""The server that a process's engines are forked from: it has imported vLLM, once for all of them.

That import takes ten seconds of a core. The server does it beside its owner's own import, and an engine that starts
later, such as one in place of one that died, doesn't wait for it. vLLM's API server does the same for
VLLM_WORKER_MULTIPROC_METHOD=forkserver. In a Ray actor vLLM insists on `spawn`, as a process that has threads and a
Ray client is not safe to fork; the server has neither, and no CUDA context.
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

_scratch: Scratch | None = None  # of this process's server, which removes it as it ends


class _Fork(context.ForkServerProcess):
    """An engine, in the environment that its owner has as it makes it in place of the server's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._environment = dict(os.environ)

    def run(self) -> None:
        import torch

        os.environ.clear()
        os.environ.update(self._environment)
        tempfile.tempdir = None  # what the server found out from its own
        if threads := os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(int(threads))
        exit_with_owner()
        super().run()


class _ForkContext(context.ForkServerContext):
    Process = _Fork  # type: ignore[assignment]


def start_engine_server(settings: EngineSettings) -> None:
    """See that this process's server runs; returns while it imports. It ends with this process and its engines.

    To be called before this process imports vLLM itself, which then is as quiet as its engines.
    """
    global _scratch
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if _scratch is None:
        _scratch = Scratch()
        with _temporary_files_in(_scratch):
            util.get_temp_dir()  # for the server's socket
    forkserver.set_forkserver_preload(["actors.engine.preload"])
    with environment(engine_variables(settings, _scratch.path)):
        forkserver.ensure_running()


def fork_engines() -> None:
    """From now on vLLM has the engines of this process forked from its server."""
    from vllm.utils.system_utils import get_mp_context
    from vllm.v1.engine import utils

    def context_of_engines() -> _ForkContext:
        get_mp_context()  # prepares the environment; what it returns is for an engine's own workers
        return _ForkContext()

    utils.get_mp_context = context_of_engines


def engine_server_pid() -> int | None:
    """This process's server, if it has been started."""
    return forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined, no-any-return]


@contextmanager
def _temporary_files_in(scratch: Scratch) -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, str(scratch.path)
    try:
        yield
    finally:
        tempfile.tempdir = before
