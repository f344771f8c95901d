"""What the server that engines are forked from imports: what engines need. The server tidies up as it ends."""

from __future__ import annotations

import atexit

import setproctitle

# Finds where the title stands, which can't be done once the environment has changed: vLLM's import changes it, and so
# do forks. Engines would then go without a title, now and then.
setproctitle.getproctitle()

from actors.engine.scratch import remove_own_scratch  # noqa: E402
from actors.heavy_imports import heavy_imports  # noqa: E402

with heavy_imports():
    import vllm.v1.engine.async_llm
    import vllm.v1.engine.core
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        # On a GPU this is left to the engines: nothing in the server may ever start CUDA, which forks can't use.
        import vllm.v1.worker.cpu_worker  # noqa: F401

# Not in its forks: those leave by os._exit.
atexit.register(remove_own_scratch)
