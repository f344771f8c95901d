"""The rollout bench: how busy one engine stays while episodes wait for candidates, against other ways of working.

Every mode plays the same episodes: as many rounds, tokens and seconds of waiting, from the same seeds. A random
4M-parameter Llama on one vLLM engine; latencies are lognormal, with a median of 0.8 s and a 99th percentile of 8 s.

Continuous modes are measured while there is an episode to start, as there always is in a run, where the next step's
episodes follow without a pause. Lockstep modes are measured over whole batches: they wait for the last at every turn.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.engine.admission import Admission
from actors.engine.policy_engine import PolicyEngine
from actors.settings import EngineSettings, SamplingSettings
from benchmarks.benches.figures import Figure, at_least
from benchmarks.benches.learner_model import save_model

TARGET = 64  # sequences that generate at a time, and episodes of a lockstep batch
EPISODES = 448
LOCKSTEP_EPISODES = 128  # a rate needs fewer of them, at several times the seconds each
ROUNDS, TURN_TOKENS, PROMPT_TOKENS, REPLY_TOKENS = (1, 4), (24, 64), 40, 16
MEDIAN_S, P99_S, CALL_THREADS, VOCAB, REPETITIONS = 0.8, 8.0, 10, 4096, 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Script:
    """What an episode does: tokens of each turn, and the seconds of the call after each but the last."""

    number: int
    turns: tuple[int, ...]
    latencies: tuple[float, ...]
    prompt: tuple[int, ...]


def write_scripts(count: int) -> list[Script]:
    """Episodes to play; the first of a longer list are those of a shorter one."""
    sigma = math.log(P99_S / MEDIAN_S) / statistics.NormalDist().inv_cdf(0.99)
    scripts = []
    for number in range(count):
        rng = random.Random(number)
        rounds = rng.randint(*ROUNDS)
        scripts.append(
            Script(
                number,
                tuple(rng.randint(*TURN_TOKENS) for _ in range(rounds + 1)),
                tuple(MEDIAN_S * math.exp(sigma * rng.gauss(0, 1)) for _ in range(rounds)),
                tuple(rng.randrange(2, VOCAB) for _ in range(PROMPT_TOKENS)),
            )
        )
    return scripts


class Player:
    """Plays scripts on an engine, and counts the tokens that it generates."""

    def __init__(self, engine: PolicyEngine) -> None:
        self.engine = engine
        self.tokens = 0

    async def turn(self, script: Script, context: list[int], number: int) -> None:
        """Sample one turn and append it, and the candidate's reply after it."""
        wanted = script.turns[number]
        sampled = await self.engine.generate(
            context, max_tokens=wanted, stop=[], sampling=SamplingSettings(), seed=script.number * 16 + number
        )
        self.tokens += len(sampled.token_ids)
        context += sampled.token_ids + list(script.prompt[:REPLY_TOKENS])

    async def continuous(self, scripts: list[Script], *, scale: float) -> float:
        """A coroutine an episode, started as the engine has room; tokens a second while there is one to start."""
        admission, began, waiting = Admission(TARGET), time.perf_counter(), len(scripts)
        started: asyncio.Event = asyncio.Event()

        async def play(script: Script) -> None:
            nonlocal waiting
            context = list(script.prompt)
            async with admission.episode() as place:
                waiting -= 1
                if waiting == 0:
                    started.set()
                for number in range(len(script.turns)):
                    async with place.turn():
                        await self.turn(script, context, number)
                    if number < len(script.latencies):
                        await asyncio.sleep(scale * script.latencies[number])

        self.tokens = 0
        async with asyncio.TaskGroup() as group:
            for script in scripts:
                group.create_task(play(script))
            await started.wait()
            rate = self.tokens / (time.perf_counter() - began)
            logger.info("%d episodes under way at the end", admission.under_way)
        return rate

    async def lockstep(self, scripts: list[Script], *, threads: int) -> float:
        """Batches of `TARGET` episodes: all sample a turn, then all calls are made, `threads` at a time."""
        self.tokens, began, gate = 0, time.perf_counter(), asyncio.Semaphore(threads)

        async def call(seconds: float) -> None:
            async with gate:
                await asyncio.sleep(seconds)

        for first in range(0, len(scripts), TARGET):
            batch = [(script, list(script.prompt)) for script in scripts[first : first + TARGET]]
            for number in range(ROUNDS[1] + 1):
                active = [(script, context) for script, context in batch if number < len(script.turns)]
                await asyncio.gather(*(self.turn(script, context, number) for script, context in active))
                waits = [script.latencies[number] for script, _ in active if number < len(script.latencies)]
                await asyncio.gather(*map(call, waits))
        return self.tokens / (time.perf_counter() - began)


def run() -> list[Figure]:
    """Measure all modes in turn, `REPETITIONS` times; about fifteen minutes."""
    with tempfile.TemporaryDirectory(prefix="router-r1-bench-") as folder:
        save_model(Path(folder), VOCAB)
        return judge(asyncio.run(measure(Path(folder), REPETITIONS)))


async def measure(checkpoint: Path, repetitions: int) -> dict[str, list[float]]:
    """Tokens a second of each mode, in turns on one engine."""
    settings = EngineSettings(max_model_len=512, max_num_seqs=TARGET, kv_cache_gib=2, threads=2)
    engine = PolicyEngine(checkpoint, settings, weight_backend="gloo")
    await engine.start()
    try:
        player, scripts, few = Player(engine), write_scripts(EPISODES), write_scripts(LOCKSTEP_EPISODES)
        modes: dict[str, Callable[[], Coroutine[Any, Any, float]]] = {
            "limit": lambda: player.continuous(scripts, scale=0.0),
            "continuous": lambda: player.continuous(scripts, scale=1.0),
            "lockstep": lambda: player.lockstep(few, threads=len(few)),
            "threads": lambda: player.lockstep(few, threads=CALL_THREADS),
        }
        await player.lockstep(few[:TARGET], threads=TARGET)  # warms up
        rates: dict[str, list[float]] = {name: [] for name in modes}
        for number in range(repetitions):
            for name, play in modes.items():
                rates[name].append(await play())
                logger.info("%s, %d of %d: %.0f tokens/s", name, number + 1, repetitions, rates[name][-1])
        return rates
    finally:
        await engine.shutdown()


def judge(rates: dict[str, list[float]]) -> list[Figure]:
    """The figures of each mode's tokens a second."""

    def over(one: str, other: str) -> list[float]:
        return [a / b for a, b in zip(rates[one], rates[other], strict=True)]

    names = {
        "limit": "no latency, continuous: the engine's limit",
        "continuous": f"continuous, {TARGET} generating",
        "lockstep": "lockstep turns, calls unlimited",
        "threads": f"lockstep turns, {CALL_THREADS} call threads",
    }
    plain = [
        Figure(names[name], statistics.median(found), "tokens/s", "", None, (min(found), max(found)))
        for name, found in rates.items()
    ]
    return [
        *plain,
        at_least("continuous over the engine's limit", over("continuous", "limit"), "ratio", 0.90),
        at_least(f"continuous over lockstep with {CALL_THREADS} threads", over("continuous", "threads"), "ratio", 4),
        at_least("continuous over lockstep, calls unlimited", over("continuous", "lockstep"), "ratio", 3.5),
    ]
