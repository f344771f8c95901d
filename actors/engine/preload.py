"""Imported by the server that engines are forked from, so that their modules are loaded. Cleans up when it ends."""

from __future__ import annotations

import atexit

import setproctitle

# Finds the memory that holds the process's title. That is impossible once the environment has changed, and both vLLM's
# import and the forks change it; without this call some engines would have no title.
setproctitle.getproctitle()

from actors.engine.scratch import remove_own_scratch  # noqa: E402
from actors.heavy_imports import heavy_imports  # noqa: E402

with heavy_imports():
    import vllm.v1.engine.async_llm
    import vllm.v1.engine.core
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        # On a GPU each engine imports its worker: the server must never start CUDA, because its forks can't use it.
        import vllm.v1.worker.cpu_worker  # noqa: F401

# The forks don't run this: they end by os._exit.
atexit.register(remove_own_scratch)
