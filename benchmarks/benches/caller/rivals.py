"""What the caller is compared with: LiteLLM's Router, and ten threads with the `openai` client.

A program of its own, run by an interpreter that has the rival and nothing of ours: it imports no room. Prints the
calls per second as JSON. Usage: python rivals.py litellm|threads BASE_URL CALLS IN_FLIGHT
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

QUESTION = "Which town is meant in question number {}?"
KEY = "none"  # the server asks for none, the clients do


def threads(base_url: str, calls: int, workers: int) -> float:
    """Calls per second of a thread pool with one synchronous client, as the published code has it."""
    from openai import OpenAI

    client = OpenAI(base_url=base_url, api_key=KEY, max_retries=0)

    def ask(number: int) -> None:
        client.chat.completions.create(model="candidate", messages=_messages(number), max_tokens=88)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(ask, range(workers)))  # connections are made
        started = time.perf_counter()
        list(pool.map(ask, range(calls)))
        return calls / (time.perf_counter() - started)


async def litellm(base_url: str, calls: int, in_flight: int) -> float:
    """Calls per second of LiteLLM's Router with one deployment."""
    from litellm import Router

    deployment = {"model": "openai/candidate", "api_base": base_url, "api_key": KEY}
    router = Router(model_list=[{"model_name": "candidate", "litellm_params": deployment}], num_retries=0)

    async def ask_all(numbers: Iterator[int]) -> None:
        for number in numbers:
            await router.acompletion(model="candidate", messages=_messages(number), max_tokens=88)

    async def work(numbers: Iterator[int]) -> None:
        await asyncio.gather(*(ask_all(numbers) for _ in range(in_flight)))

    await work(iter(range(in_flight)))  # connections are made
    started = time.perf_counter()
    await work(iter(range(calls)))
    return calls / (time.perf_counter() - started)


def _messages(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": QUESTION.format(number)}]


def main() -> None:
    rival, base_url, calls, in_flight = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if rival == "threads":
        rate = threads(base_url, calls, in_flight)
    else:
        rate = asyncio.run(litellm(base_url, calls, in_flight))
    sys.stdout.write(json.dumps({"calls_per_s": rate}) + "\n")


if __name__ == "__main__":
    main()
