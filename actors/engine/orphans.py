"""Ends an engine's processes when the process that owns the engine has died.

vLLM runs its engine core and workers as separate processes. If their owner is killed with SIGKILL, they live on and
keep memory and cores. So they watch the owner: the core from its first moment on, the workers too. A worker also kills
the core. On CPU the core is its own worker.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import threading

from actors.engine.scratch import remove_own_scratch

OWNER_VARIABLE = "ROUTER_R1_ENGINE_OWNER"  # process id of the owner, in the worker's environment

_WATCH = "owner-watch"


def exit_with_owner() -> None:
    """In an engine's process, start to watch the owner, unless it is watched already; elsewhere do nothing."""
    owner = int(os.environ.get(OWNER_VARIABLE, "0"))
    if owner in (0, os.getpid()) or any(thread.name == _WATCH for thread in threading.enumerate()):
        return
    # Not os.getppid(): if the core has died already, that is the process that adopted this one.
    parent = multiprocessing.parent_process()
    core = parent.pid if parent is not None and parent.pid is not None else 0
    threading.Thread(target=_watch, args=(owner, core), name=_WATCH, daemon=True).start()


def _watch(owner: int, core: int) -> None:
    try:
        handle = os.pidfd_open(owner)
    except ProcessLookupError:
        pass  # gone already
    else:
        select.select([handle], [], [])  # readable once the process has ended
    remove_own_scratch()
    # If the core has died too, its id may belong to another process by now. Then it is no longer our parent.
    if os.getppid() == core and core not in (0, 1, owner):
        os.kill(core, signal.SIGKILL)
    os._exit(1)
