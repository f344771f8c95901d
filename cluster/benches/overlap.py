"""The overlap bench: steps an hour of the whole loop, with and without batches played ahead of the learner.

Two whole runs of the quickstart, one after the other, differ only in `run.max_staleness`. The candidates' latencies
are lognormal, with a median of 0.8 s and a 99th percentile of 8 s, drawn from one seed.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.benches.figures import Figure, at_least
from cluster.benches.train_program import TrainProgram

AHEAD = 2
WARM_STEPS = 4  # left out of the means, because windows are still being filled
EVALUATED = 1000  # questions, so that an exact match is known to within one or two points
_LATENCY = ("candidates.latency_scale=1", "candidates.latency_lognormal=[0.8,8]")
_TIMEOUT_S = 3600.0

logger = logging.getLogger(__name__)


def run() -> list[Figure]:
    """Train twice, to the end; about half an hour."""
    with tempfile.TemporaryDirectory(prefix="router-r1-bench-") as folder:
        return judge(*(play(Path(folder), staleness) for staleness in (0, AHEAD)))


def play(folder: Path, staleness: int, *overrides: str) -> tuple[list[dict[str, Any]], float]:
    """Train once; return the rows of metrics of the steps, and the final exact match."""
    settings = (*_LATENCY, f"run.max_staleness={staleness}", f"data.eval_questions={EVALUATED}", *overrides)
    with TrainProgram(folder, f"staleness-{staleness}", settings) as program:
        program.wait(_TIMEOUT_S)
        rows = [row for row in program.folder.read_metrics() if "time/step_s" in row]
        em = float(program.summary()["after"]["em"])
    logger.info("staleness %d: %.1f s a step, exact match %.3f", staleness, _seconds(rows), em)
    return rows, em


def judge(together: tuple[list[dict[str, Any]], float], ahead: tuple[list[dict[str, Any]], float]) -> list[Figure]:
    """The figures; steps an hour come from the mean time of all steps but the first few."""
    (slow, slow_em), (fast, fast_em) = together, ahead
    lost = 100 * (slow_em - fast_em)

    def mean(rows: list[dict[str, Any]], key: str) -> float:
        return statistics.fmean(row[key] for row in rows[WARM_STEPS:])

    figures = []
    for name, rows, em in (("S = 0", slow, slow_em), (f"S = {AHEAD}", fast, fast_em)):
        figures += [
            Figure(f"{name}: steps an hour", 3600 / _seconds(rows), "steps", "", None),
            Figure(f"{name}: engines idle", mean(rows, "idle/engines"), "share", "", None),
            Figure(f"{name}: learner idle", mean(rows, "idle/learner"), "share", "", None),
            Figure(f"{name}: exact match at the end", em, "share", "", None),
        ]
    stale = max(row["rollout/staleness"] for row in fast)
    return [
        *figures,
        Figure(f"S = {AHEAD}: oldest token", stale, "versions", f"<= {AHEAD}", stale <= AHEAD),
        at_least(f"steps an hour, S = {AHEAD} over S = 0", [_seconds(slow) / _seconds(fast)], "ratio", 1.7),
        Figure(f"exact match lost by S = {AHEAD}", lost, "points", "<= 2", lost <= 2),
    ]


def _seconds(rows: list[dict[str, Any]]) -> float:
    """The mean seconds of a step, by the run's clock: all work but evaluations is included."""
    return statistics.fmean(row["time/step_s"] for row in rows[WARM_STEPS:])
