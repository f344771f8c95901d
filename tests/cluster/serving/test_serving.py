"""The Ray Serve app, started as a user starts it, and called by the official OpenAI client."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from processes import Program, command

from actors.ledger.database import existing_ledger
from actors.ledger.report import models
from benchmarks.world.coldstart import CHECKPOINT
from benchmarks.world.facts import World

pytestmark = [pytest.mark.engine, pytest.mark.slow]

_START_S = 300
# Latencies of seconds, so that an episode can be left in the middle.
_CODE = """
import sys
from cluster.session.logs import quiet_libraries
quiet_libraries()
from cluster.serving.deployment import serve
overrides = ["candidates.latency_scale=0.5", "engine.max_num_seqs=16", f"run.folder={sys.argv[2]}"]
serve(sys.argv[1], port=0, overrides=overrides)
"""


@dataclass
class Service:
    program: Program
    url: str
    runs: Path

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=60)

    def health(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/healthz", timeout=30).raise_for_status().json())

    def wait_for_health(self, status: int, timeout_s: float) -> str:
        """Wait until the service answers with that status; return the text of its answer."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                response = httpx.get(f"{self.url}/healthz", timeout=10)
                if response.status_code == status:
                    return response.text
                said = f"{response.status_code}: {response.text}"
            except httpx.TimeoutException:  # while a replica is replaced, requests wait for it
                said = "no answer"
            assert time.monotonic() < until, f"{said}\n{self.program.output}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    runs = tmp_path_factory.mktemp("serving") / "runs"
    program = Program(_CODE, [str(CHECKPOINT), str(runs)])
    try:
        url = next(word for word in program.wait_for("answers at", _START_S).split() if word.startswith("http://"))
        yield Service(program, url.removesuffix("/v1"), runs)
    finally:
        program.stop(signal.SIGTERM, timeout_s=90)
        assert program.left() == []


@pytest.fixture(scope="module")
def questions() -> list[str]:
    drawn = World().questions("heldout", 1, 0.4)
    return [next(drawn)[0].text for _ in range(8)]


def chat(service: Service, question: str, **options: Any) -> Any:
    return service.client().chat.completions.create(
        model="router-r1", messages=[{"role": "user", "content": question}], **options
    )


def test_models(service: Service) -> None:
    client = service.client()
    assert [model.id for model in client.models.list()] == ["router-r1"]
    assert client.models.retrieve("router-r1").owned_by == "router-r1"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_health(service: Service) -> None:
    health = service.health()
    assert health["status"] == "ok"
    assert health["checkpoint"] == str(CHECKPOINT)
    assert (health["policy_version"], health["in_flight"]) == (0, 0)
    assert len(health["candidates"]) >= 6


def test_completion(service: Service, questions: list[str]) -> None:
    done = chat(service, questions[0])
    assert done.id.startswith("chatcmpl-")
    assert done.object == "chat.completion"
    (choice,) = done.choices
    assert choice.finish_reason == "stop"
    assert choice.message.content
    trace = choice.message.reasoning_content
    assert trace.startswith("<think>")
    assert "<information>" in trace
    assert "<answer>" not in trace
    usage = done.usage
    assert usage.completion_tokens > 5
    assert usage.prompt_tokens > usage.completion_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    routes = done.router_r1["routes"]
    assert routes
    assert all(f"{route['requested']} : {route['query']}" in trace for route in routes)
    assert done.router_r1["stop_reason"] == "answered"
    assert done.router_r1["cost_usd"] == pytest.approx(sum(route["cost_usd"] for route in routes))


def test_calls_are_in_a_ledger(service: Service, questions: list[str]) -> None:
    done = chat(service, questions[2])
    with existing_ledger(service.runs) as ledger:
        found = models(ledger, f"{CHECKPOINT.name}/answers")
    asked = {route["model"] for route in done.router_r1["routes"]}
    assert asked
    assert asked <= {row["model"] for row in found if row["cost_usd"] > 0}


def test_streaming_says_the_same_piece_by_piece(service: Service, questions: list[str]) -> None:
    whole = chat(service, questions[1])
    started, times, routes, reasoning, content = time.monotonic(), [], [], "", ""
    with chat(service, questions[1], stream=True, stream_options={"include_usage": True}) as stream:
        chunks = []
        for chunk in stream:
            times.append(time.monotonic() - started)
            chunks.append(chunk)
    for chunk in chunks:
        for choice in chunk.choices:
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            content += choice.delta.content or ""
        routes += [extra["route"] for extra in [getattr(chunk, "router_r1", {})] if "route" in extra]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert reasoning.strip() == whole.choices[0].message.reasoning_content
    assert content == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage
    asked = whole.router_r1["routes"]
    assert [(r["model"], r["query"], r["reply"]) for r in routes] == [
        (r["model"], r["query"], r["reply"]) for r in asked
    ]
    # Chunks came as the episode was played: the first words long before the candidates had answered.
    assert times[-1] - times[0] > 0.5 * sum(route["latency_s"] for route in asked)


async def test_eight_at_once(service: Service, questions: list[str]) -> None:
    client = openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0, timeout=120)

    async def one(question: str) -> Any:
        return await client.chat.completions.create(model="router-r1", messages=[{"role": "user", "content": question}])

    started = time.monotonic()
    async with client:
        done = await asyncio.gather(*(one(question) for question in questions))
    wall_s = time.monotonic() - started
    assert len({answer.id for answer in done}) == 8
    # Each request got the reply to its own question: its trace names the entity of that question.
    assert (
        sum(q.split()[-2] in a.choices[0].message.reasoning_content for q, a in zip(questions, done, strict=True)) >= 6
    )
    routes = [route for answer in done for route in answer.router_r1["routes"]]
    good = [route for route in routes if route["status"] == "ok"]
    assert len(good) >= 6
    assert all(route["model"] in service.health()["candidates"] and route["cost_usd"] > 0 for route in good)
    assert wall_s < 0.7 * sum(answer.router_r1["wall_s"] for answer in done)


@pytest.mark.parametrize(
    ("options", "error", "param"),
    [
        ({"n": 2}, openai.BadRequestError, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
        ({"model": "gpt-4o"}, openai.NotFoundError, "model"),
        ({"messages": [{"role": "user", "content": ""}]}, openai.BadRequestError, "messages"),
    ],
)
def test_what_is_refused(service: Service, options: dict[str, Any], error: type[Any], param: str) -> None:
    request = {"model": "router-r1", "messages": [{"role": "user", "content": "who ?"}]} | options
    with pytest.raises(error) as caught:
        service.client().chat.completions.create(**request)
    assert caught.value.param == param


@pytest.mark.parametrize("stream", [False, True])
def test_too_long_a_question_is_refused_by_status(service: Service, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(service, "what " * 400, stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_max_tokens_ends_the_episode(service: Service, questions: list[str]) -> None:
    done = chat(service, questions[0], max_tokens=4)
    assert done.choices[0].finish_reason == "length"
    assert done.usage.completion_tokens == 4
    assert done.choices[0].message.content == ""


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", "{", 400),
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/v1/chat/completions", None, 405),
    ],
)
def test_errors_have_the_form_of_openai(
    service: Service, method: str, path: str, body: str | None, status: int
) -> None:
    response = httpx.request(method, service.url + path, content=body, timeout=30)
    assert response.status_code == status
    assert set(response.json()["error"]) >= {"message", "type", "param", "code"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_ends_its_episode(service: Service, questions: list[str], stream: bool) -> None:
    takes_s, question = max((chat(service, q).router_r1["wall_s"], q) for q in questions[:4])
    assert takes_s > 1
    body = {"model": "router-r1", "messages": [{"role": "user", "content": question}], "stream": stream}
    started = time.monotonic()
    if stream:
        with httpx.stream("POST", f"{service.url}/v1/chat/completions", json=body, timeout=30) as response:
            next(response.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=takes_s / 4)
    while service.health()["in_flight"]:
        time.sleep(0.02)
    assert time.monotonic() - started < 0.8 * takes_s, "the episode went on without its client"


def test_an_engine_that_died_is_told_without_a_request_and_replaced(service: Service, questions: list[str]) -> None:
    [core] = [process for process in service.program.family() if "VLLM::EngineCore" in " ".join(command(process))]
    core.kill()
    assert "engine died" in service.wait_for_health(503, 90)
    service.wait_for_health(200, _START_S)
    assert chat(service, questions[0]).choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_candidates_that_are_gone(service: Service, questions: list[str], stream: bool) -> None:
    for process in service.program.family():
        if "benchmarks.world.server" in command(process):
            process.kill()
    with pytest.raises(openai.APIError) as caught:
        list(chat(service, questions[0], stream=stream))
    assert caught.value.code == "candidate_provider_error"
    if not stream:
        assert isinstance(caught.value, openai.APIStatusError)
        assert caught.value.status_code == 502
        assert caught.value.response.headers["x-should-retry"] == "false"
    routes = caught.value.body["router_r1"]["routes"]
    assert routes[-1]["status"] == "provider_error"
    assert service.health()["status"] == "ok"


def test_sigterm_leaves_nothing_behind(service: Service) -> None:
    assert service.program.stop(signal.SIGTERM, timeout_s=90) == 0
    assert service.program.left() == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{service.url}/healthz")
