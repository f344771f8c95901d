"""The sync bench: how long engines stand still for new weights, beside the time that a copy of the bytes takes.

A random Llama of SmolLM2-135M's shape in float32; two ranks under ZeRO-3, two engines that generate meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from actors.engine.policy_engine import PolicyEngine
from actors.ray_start import init_own_ray
from actors.settings import EngineSettings, SamplingSettings
from benchmarks.benches.figures import Figure, at_most
from benchmarks.benches.learner_model import SMOLLM2, learner_settings, save_model
from learner.gang import LearnerGang
from learner.sync.sync_report import SyncReport

ROUNDS, RANKS, ENGINES, SEQUENCES, PROMPT_TOKENS, TURN_TOKENS = 3, 2, 2, 2, 8, 200
VOCAB = 49152
PROBE_TOLERANCE = 1e-3  # nats, float32
TIMEOUT_S = 600.0

logger = logging.getLogger(__name__)


class TimedEngine(PolicyEngine):
    """An engine that generates all the time, and knows when it said something."""

    async def generate_on(self, seed: int) -> None:
        """Keep `SEQUENCES` short turns going."""
        self.spoke_at: list[float] = []
        self._busy = [asyncio.create_task(self._turns(seed * SEQUENCES + i)) for i in range(SEQUENCES)]

    async def _turns(self, seed: int) -> None:
        for number in itertools.count():
            await self.generate(
                list(range(5, 5 + PROMPT_TOKENS)),
                max_tokens=TURN_TOKENS,
                stop=[],
                sampling=SamplingSettings(),
                seed=seed * 1000 + number,
                on_text=lambda _: self.spoke_at.append(time.perf_counter()),
            )

    async def be_quiet(self) -> list[float]:
        """End the turns; returns the seconds between one piece of text and the next."""
        for task in self._busy:
            task.cancel()
        ended = await asyncio.gather(*self._busy, return_exceptions=True)
        for error in ended:
            if not isinstance(error, asyncio.CancelledError):
                raise RuntimeError("an engine of the sync bench stopped generating") from error
        return [after - before for before, after in itertools.pairwise(self.spoke_at)]


def run() -> list[Figure]:
    """Measure `ROUNDS` syncs after one that warms up."""
    init_own_ray(num_cpus=8)
    try:
        with tempfile.TemporaryDirectory(prefix="router-r1-bench-") as folder:
            for seed, name in enumerate(("learner", "engines")):
                save_model(Path(folder) / name, VOCAB, shape=SMOLLM2, seed=seed)
            return measure(Path(folder) / "learner", Path(folder) / "engines")
    finally:
        ray.shutdown()


def measure(learner: Path, start: Path) -> list[Figure]:
    """On a running Ray; engines start from another checkpoint than the learner's, so that the probe says something."""
    settings = EngineSettings(max_model_len=512, max_num_seqs=SEQUENCES, kv_cache_gib=0.25)
    actor = ray.remote(TimedEngine).options(num_cpus=1)
    engines = [actor.remote(start, settings, seed=i, weight_backend="gloo") for i in range(ENGINES)]
    _each(engines, "start")
    gang = LearnerGang(learner_settings(3, ranks=RANKS), checkpoint=learner, temperature=1.0)
    try:
        gang.connect_engines(engines, backend="gloo", ranks_per_engine=1, dtype="float32")
        gang.send_weights(1)
        probe = list(range(5, 69))
        expected = gang.logprobs(probe)
        scores = _each(engines, "score", probe)
        off = max(abs(a - b) for score in scores for a, b in zip(score, expected, strict=True))
        rounds = [_round(gang, engines, version) for version in range(2, 2 + ROUNDS)]
    finally:
        gang.shutdown()
        _each(engines, "shutdown")
    return [*judge(rounds), at_most("probe after a sync", [off], "nats", PROBE_TOLERANCE)]


def _round(gang: LearnerGang, engines: list[Any], version: int) -> tuple[SyncReport, float, float]:
    """A sync amid generation: its report, seconds of a copy of its bytes, and the longest silence of an engine."""
    for seed, engine in enumerate(engines):
        ray.get(engine.generate_on.remote(seed), timeout=TIMEOUT_S)
    time.sleep(2)
    report = gang.send_weights(version)
    time.sleep(2)
    silence = max(max(gaps) for gaps in _each(engines, "be_quiet"))
    copy_s = copy_seconds(report.sent_bytes)
    logger.info("version %d: stall %.3f s, copy %.3f s, silence %.2f s", version, report.stall_s, copy_s, silence)
    return report, copy_s, silence


def copy_seconds(size: int) -> float:
    """Seconds to copy `size` bytes once, by torch on one thread, from memory in use to memory in use."""
    import torch

    torch.set_num_threads(1)
    source, target = (torch.full((size,), value, dtype=torch.uint8) for value in (1, 0))
    began = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - began


def judge(rounds: list[tuple[SyncReport, float, float]]) -> list[Figure]:
    """The figures, over the rounds."""
    reports, copies, silences = zip(*rounds, strict=True)

    def plain(name: str, values: list[float], unit: str = "s") -> Figure:
        return Figure(name, statistics.median(values), unit, "", None, (min(values), max(values)))

    return [
        at_most("stall over a copy", [r.stall_s / copy for r, copy in zip(reports, copies, strict=True)], "ratio", 2),
        plain("stall of the slowest engine", [r.stall_s for r in reports]),
        plain("one copy of the bytes", list(copies)),
        plain("longest silence of an engine", list(silences)),
        plain("sync, from gathering to use", [r.seconds for r in reports]),
        plain("sent to each engine", [r.sent_bytes / 1e6 for r in reports], "MB"),
    ]


def _each(engines: list[Any], method: str, *arguments: Any) -> list[Any]:
    results: list[Any] = ray.get([getattr(e, method).remote(*arguments) for e in engines], timeout=TIMEOUT_S)
    return results
