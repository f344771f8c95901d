"""Speed: calls per second beside the bare loop and the rivals, and two thousand calls that wait for nobody."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import aiohttp
import psutil

from actors.child_process import python_command
from actors.pool.calls import CANDIDATE_PROMPT
from benchmarks.benches.caller.client import QUESTION, Ledgers, ask_all, open_caller
from benchmarks.benches.caller.provider import MAX_TOKENS, CallerBenchError, Provider
from rewards.transcript import CallStatus

IN_FLIGHT = 256
THREADS = 10
THREADS_LATENCY_S = 0.2
LATENCY_MEDIAN_S, LATENCY_P99_S = 0.8, 8.0
LITELLM = "litellm==1.106.2"
_LITELLM_FOLDER = Path("runs/bench-caller/litellm")  # one that is there already is not installed again
_INSTALL_S = 600.0
_RIVAL_S = 300.0
_MIB = 2**20

logger = logging.getLogger(__name__)


async def bare_rate(provider: Provider, calls: int) -> float:
    """Calls per second of an aiohttp loop that posts, reads and decodes, and does nothing else."""
    url = f"{provider.base_url}/chat/completions"

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work(numbers: Iterator[int]) -> None:
            for number in numbers:
                messages = [
                    {"role": "system", "content": CANDIDATE_PROMPT},
                    {"role": "user", "content": QUESTION.format(number)},
                ]
                payload = {"model": "candidate", "messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0.0}
                async with session.post(url, json=payload) as response:
                    json.loads(await response.read())

        async def ask(count: int) -> None:
            numbers = iter(range(count))
            await asyncio.gather(*(work(numbers) for _ in range(IN_FLIGHT)))

        await ask(IN_FLIGHT)  # connections are made
        started = time.perf_counter()
        await ask(calls)
        return calls / (time.perf_counter() - started)


async def product_rate(provider: Provider, ledgers: Ledgers, run: str, calls: int) -> float:
    """Calls per second of the caller with everything on.

    Raises:
        CallerBenchError: a call did not end well, so that the rate says nothing.
    """
    async with open_caller([provider.card()], ledgers, run) as caller:
        await ask_all(caller, IN_FLIGHT, IN_FLIGHT)
        started = time.perf_counter()
        answered = await ask_all(caller, calls, IN_FLIGHT, first=IN_FLIGHT)
        elapsed = time.perf_counter() - started
    bad = next((call for call in answered if call.status is not CallStatus.OK), None)
    if bad is not None:
        raise CallerBenchError(f"a call of the speed bench ended as {bad.status}: {bad.error}")
    return calls / elapsed


async def threads_rate(provider: Provider, calls: int) -> float:
    return await _rival(python_command(), "threads", provider, calls, THREADS)


async def litellm_rate(python: str, provider: Provider, calls: int) -> float:
    return await _rival([python, "-P"], "litellm", provider, calls, IN_FLIGHT)


async def litellm_python() -> str | None:
    """An interpreter that has LiteLLM, in an environment of its own beside ours; None where it can't be had."""
    python = _LITELLM_FOLDER / "bin" / "python"
    if python.is_file():
        return str(python)
    logger.info("installing %s into %s, for comparison", LITELLM, _LITELLM_FOLDER)
    for command in (
        python_command("-m", "venv", str(_LITELLM_FOLDER)),
        [str(python), "-P", "-m", "pip", "install", "-q", "--disable-pip-version-check", LITELLM],
    ):
        code, output = await _run(command, _INSTALL_S)
        if code != 0:
            logger.warning(
                "%s was not installed, so it is not compared with; install it by hand: %s\n%s",
                LITELLM,
                " ".join(command),
                output[-1000:],
            )
            python.unlink(missing_ok=True)  # half an environment is none
            return None
    return str(python)


@dataclass(frozen=True, slots=True)
class Crowd:
    """What many calls at once came to."""

    stretch: float  # wall time over the latency of the slowest call
    peak_mib: float  # resident memory of the client, at most


async def crowd(provider: Provider, ledgers: Ledgers, run: str, calls: int, seed: int) -> Crowd:
    """Send all calls at once, to a provider whose latency is lognormal.

    Raises:
        CallerBenchError: a call did not end well.
    """
    sigma = _sigma(LATENCY_MEDIAN_S, LATENCY_P99_S)
    await provider.set(median_s=LATENCY_MEDIAN_S, sigma=sigma, seed=seed)
    limits = {"max_in_flight": calls, "total_timeout_s": 300.0, "first_byte_timeout_s": 300.0}
    async with open_caller([provider.card()], ledgers, run, **limits) as caller:
        with _peak_memory() as peak:
            started = time.perf_counter()
            answered = await ask_all(caller, calls, calls)
            elapsed = time.perf_counter() - started
    if any(call.status is not CallStatus.OK for call in answered):
        raise CallerBenchError(f"calls of the crowd failed: {next(c.error for c in answered if c.error)}")
    slowest_s = (await provider.books())["slowest_s"]
    return Crowd(elapsed / slowest_s, max(peak) / _MIB)


def _sigma(median: float, p99: float) -> float:
    return math.log(p99 / median) / NormalDist().inv_cdf(0.99)


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Resident bytes of this process, sampled ten times a second by the loop that the work runs in."""
    process = psutil.Process()
    seen = [process.memory_info().rss]

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.1)
            seen.append(process.memory_info().rss)

    watching = asyncio.get_running_loop().create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()
        seen.append(process.memory_info().rss)


async def _rival(python: list[str], name: str, provider: Provider, calls: int, in_flight: int) -> float:
    program = str(Path(__file__).with_name("rivals.py"))
    command = [*python, program, name, provider.base_url, str(calls), str(in_flight)]
    code, output = await _run(command, _RIVAL_S)
    if code != 0:
        raise CallerBenchError(f"{' '.join(command)} ended with {code}:\n{output[-2000:]}")
    return float(json.loads(output.splitlines()[-1])["calls_per_s"])


async def _run(command: list[str], timeout_s: float) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},  # its prices are not fetched from the network
    )
    try:
        async with asyncio.timeout(timeout_s):
            output, _ = await process.communicate()
    except TimeoutError:
        raise CallerBenchError(f"{' '.join(command)} was not done within {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode("utf-8", "replace")
