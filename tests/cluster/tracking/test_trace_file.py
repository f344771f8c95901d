"""The trace file: Chrome's format, readable at any time."""

from __future__ import annotations

import json
from pathlib import Path

from actors.timeline import Slice
from cluster.tracking.trace_file import TraceFile


def test_it_is_whole_after_every_write(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    file = TraceFile(path)
    file.write("driver", [Slice("learn", "phases", 100.0, 2.5)])
    first = json.loads(path.read_text() + "]")
    file.write(
        "rollout worker 0", [Slice("turn", "episodes 1", 101.0, 0.25, {"tokens": 3}), Slice("a", "calls 0", 1, 1)]
    )
    file.write("driver", [Slice("sync", "phases", 102.5, 0.1)])
    file.close()
    events = json.loads(path.read_text() + "]")
    assert events[: len(first)] == first
    named = {e["args"]["name"]: (e["pid"], e["tid"]) for e in events if e["ph"] == "M"}
    assert set(named) == {"driver", "phases", "rollout worker 0", "episodes 1", "calls 0"}
    turn = next(e for e in events if e["name"] == "turn")
    assert (turn["pid"], turn["tid"]) == named["episodes 1"]
    assert (turn["ph"], turn["ts"], turn["dur"], turn["args"]) == ("X", 101_000_000, 250_000, {"tokens": 3})
    phases = [e for e in events if e["name"] in ("learn", "sync")]
    assert {(e["pid"], e["tid"]) for e in phases} == {named["phases"]}
