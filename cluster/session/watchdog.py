"""The watchdog: reports a phase of a run that stalls, with the stacks of its processes, while it still stalls."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from actors.stacks import dump_family, write_stacks

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0


class Watchdog:
    """Watches the phases of the driver from a thread of its own. It ends none: every wait has a deadline for that."""

    def __init__(self, folder: Path, stall_s: float) -> None:
        """If a phase takes longer than `stall_s` seconds, stacks are written into `folder`, once for each phase."""
        self._folder = folder
        self._stall_s = stall_s
        self._phase: tuple[str, float] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def phase(self, name: str) -> None:
        """Begin a new phase."""
        self._phase = (name, time.monotonic())

    def close(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        told = None
        while not self._over.wait(min(_LOOK_EVERY_S, self._stall_s / 4)):
            phase = self._phase
            if phase is None or phase == told or time.monotonic() - phase[1] < self._stall_s:
                continue
            told = phase
            file = write_stacks(self._folder, phase[0].replace(" ", "_").replace(":", ""), dump_family(os.getpid()))
            logger.warning(
                "%s has taken more than run.stall_s=%g s; the stacks of the processes on this machine are in %s",
                phase[0],
                self._stall_s,
                file,
            )
