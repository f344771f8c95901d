"""Stopping on request: SIGTERM stops a command just as Ctrl-C does; only the exit code differs."""

from __future__ import annotations

import signal
from types import FrameType

_received = signal.SIGINT


def stop_on_sigterm() -> None:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does, also within asyncio.

    Call it again after `ray.init`, which installs a handler that ends the process at once.
    Only the main thread may call it.
    """
    signal.signal(signal.SIGTERM, _interrupt)


def exit_code() -> int:
    """The shell's code for the signal that stopped us: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + _received


def _interrupt(signum: int, frame: FrameType | None) -> None:
    global _received
    _received = signal.Signals(signum)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under `nohup` or in a script's background
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
