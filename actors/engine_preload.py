"""What the server that engines are forked from imports: what engines need. The server tidies up as it ends."""

from __future__ import annotations

import atexit

import setproctitle
import vllm.v1.engine.async_llm
import vllm.v1.engine.core
from vllm.platforms import current_platform

from actors.scratch import remove_own_scratch

if current_platform.is_cpu():
    # On a GPU this is left to the engines: nothing in the server may ever start CUDA, which forks can't use.
    import vllm.v1.worker.cpu_worker  # noqa: F401

setproctitle.getproctitle()  # finds where the title stands, which a fork can't once its environment has changed
# Not in its forks: those leave by os._exit.
atexit.register(remove_own_scratch)
