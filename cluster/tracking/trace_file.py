"""The trace file: the slices of a run's processes, for Perfetto (ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.timeline import Slice


class TraceFile:
    """Writes Chrome's Trace Event Format as an array, one event a line.

    In this format the closing bracket may be missing, so the file can be read at any time, even after a crash.
    """

    def __init__(self, path: Path) -> None:
        """Create the file; an existing one is overwritten."""
        self._file = path.open("w", encoding="utf-8")
        self._processes: dict[str, int] = {}
        self._rows: dict[tuple[str, str], int] = {}
        self._separator = "[\n"

    def write(self, process: str, slices: Sequence[Slice]) -> None:
        """Add slices of a process; `process` is its name for people."""
        for each in slices:
            event = {
                "name": each.name,
                "cat": each.row.partition(" ")[0],
                "ph": "X",
                "ts": round(each.began * 1e6),
                "dur": round(each.seconds * 1e6),
                "pid": self._process(process),
                "tid": self._row(process, each.row),
                "args": each.facts,
            }
            self._event(event)
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _process(self, name: str) -> int:
        if name not in self._processes:
            self._processes[name] = len(self._processes) + 1
            self._name("process_name", name, self._processes[name], 0)
        return self._processes[name]

    def _row(self, process: str, row: str) -> int:
        if (process, row) not in self._rows:
            number = self._rows[process, row] = len(self._rows) + 1
            self._name("thread_name", row, self._process(process), number)
        return self._rows[process, row]

    def _name(self, kind: str, name: str, process: int, row: int) -> None:
        self._event({"name": kind, "ph": "M", "pid": process, "tid": row, "args": {"name": name}})

    def _event(self, event: dict[str, Any]) -> None:
        self._file.write(self._separator + json.dumps(event, ensure_ascii=False))
        self._separator = ",\n"
