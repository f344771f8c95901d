"""The candidate server: what it speaks, its faults and bills, and that its process never outlives its parent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from pydantic import ValidationError

from benchmarks.world.server import (
    Answer,
    CandidateServer,
    FaultSettings,
    ServerError,
    UnknownModel,
    spawn_server,
    stop_server,
)

ROOT = Path(__file__).resolve().parents[3]
ROW = {"id": "q1", "question": "who wrote hamlet", "model": "bard", "response": "Shakespeare", "correct": True}


class Parrot:
    """Says the query back, one token a word; its only model is `parrot`."""

    models = ("parrot",)

    def answer(self, model: str, query: str, question_id: str | None) -> Answer:
        if model not in self.models:
            raise UnknownModel(model)
        return Answer(f"{question_id} {query}", len(query.split()) + 1, 7, 0.2)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def base_url() -> AsyncIterator[str]:
    server = CandidateServer(Parrot(), latency_scale=0)
    yield await server.start()
    await server.stop()


def ask(query: object = "hello big world", **fields: object) -> dict[str, object]:
    return {"model": "parrot", "messages": [{"role": "user", "content": query}]} | fields


async def test_the_openai_client_can_talk_to_it(base_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == ["parrot"]
        reply = await client.chat.completions.create(**ask(metadata={"question_id": "q7"}))  # type: ignore[call-overload]
        assert reply.choices[0].message.content == "q7 hello big world"
        assert reply.choices[0].finish_reason == "stop"
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (7, 4, 11)
        stream = await client.chat.completions.create(  # type: ignore[call-overload]
            **ask(), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "None hello big world"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage.completion_tokens == 4
        with pytest.raises(openai.NotFoundError, match="no model 'cat'; there are parrot"):
            await client.chat.completions.create(**ask() | {"model": "cat"})  # type: ignore[call-overload]


async def test_a_stream_ends_with_done(base_url: str, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{base_url}/chat/completions", json=ask(stream=True)) as response:
        events = (await response.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all("usage" not in json.loads(event.removeprefix("data: ")) for event in events[:-2])


async def test_max_tokens_cuts_the_answer_and_the_bill(base_url: str, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{base_url}/chat/completions", json=ask(max_tokens=2)) as response:
        reply = await response.json()
    assert reply["choices"][0]["message"]["content"] == "None hello"
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 2
    async with http.get(f"{base_url.removesuffix('/v1')}/stats") as response:
        stats = await response.json()
    assert stats == {
        "calls": {"parrot": 1},
        "billed_tokens": {"parrot": {"prompt": 7, "completion": 2}},
        "faults": {},
        "in_flight": 0,
    }


async def test_content_may_come_in_parts(base_url: str, http: aiohttp.ClientSession) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    async with http.post(f"{base_url}/chat/completions", json=ask(parts)) as response:
        assert (await response.json())["choices"][0]["message"]["content"] == "None one\ntwo"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object, got list"),
        (json.dumps(ask() | {"model": 3}), "'model'"),
        (json.dumps(ask() | {"messages": []}), "'messages'"),
        (json.dumps(ask() | {"messages": [{"role": "system", "content": "x"}]}), "no message of role 'user'"),
        (json.dumps(ask(5)), "'content'"),
        (json.dumps(ask(max_tokens=0)), "'max_tokens'"),
    ],
)
async def test_bad_request(base_url: str, http: aiohttp.ClientSession, body: str, reason: str) -> None:
    async with http.post(f"{base_url}/chat/completions", data=body) as response:
        assert response.status == 400
        assert reason in (await response.json())["error"]["message"]


async def test_latency_is_slept_and_scaled(http: aiohttp.ClientSession) -> None:
    server = CandidateServer(Parrot(), latency_scale=1.5)
    base_url = await server.start()
    started = time.monotonic()
    async with http.post(f"{base_url}/chat/completions", json=ask()) as response:
        assert response.status == 200
    assert 0.3 <= time.monotonic() - started < 8
    await server.stop()


async def outcomes(
    http: aiohttp.ClientSession, faults: FaultSettings, requests: int
) -> tuple[list[Any], dict[str, Any]]:
    server = CandidateServer(Parrot(), latency_scale=0, faults=faults)
    base_url = await server.start()
    seen = []
    for _ in range(requests):
        try:
            async with http.post(
                f"{base_url}/chat/completions", json=ask(), timeout=aiohttp.ClientTimeout(0.3 if faults.hang else 30)
            ) as response:
                body = await response.read()
                seen.append((response.status, response.headers.get("Retry-After"), body))
        except (TimeoutError, aiohttp.ClientPayloadError) as error:
            seen.append((type(error), None, b""))
    stats = server.stats()
    await server.stop()
    return seen, stats


@pytest.mark.parametrize("fault", ["rate_limit", "server_error", "hang", "html", "invalid_json"])
async def test_faults_before_an_answer_are_not_billed(http: aiohttp.ClientSession, fault: str) -> None:
    ((status, retry_after, body),), stats = await outcomes(
        http, FaultSettings.model_validate({fault: 1.0, "retry_after_s": 2.5}), 1
    )
    assert stats["billed_tokens"] == {"parrot": {"prompt": 0, "completion": 0}}
    assert stats["faults"] == {fault: 1}
    if fault == "hang":
        assert status is TimeoutError
    elif fault in ("rate_limit", "server_error"):
        assert (status, retry_after) == ((429, "2.5") if fault == "rate_limit" else (500, None))
        assert json.loads(body)["error"]["message"]
    else:
        assert status == 200
        with pytest.raises(json.JSONDecodeError):
            json.loads(body)


@pytest.mark.parametrize("fault", ["cut_off", "empty_choices", "null_content", "refusal", "no_usage"])
async def test_faults_of_an_answer_are_billed(http: aiohttp.ClientSession, fault: str) -> None:
    ((status, _, body),), stats = await outcomes(http, FaultSettings.model_validate({fault: 1.0}), 1)
    assert stats["billed_tokens"] == {"parrot": {"prompt": 7, "completion": 4}}
    if fault == "cut_off":
        assert status is aiohttp.ClientPayloadError
        return
    reply = json.loads(body)
    assert status == 200
    assert (reply["choices"] == []) is (fault == "empty_choices")
    assert ("usage" not in reply) is (fault == "no_usage")
    if fault in ("null_content", "refusal"):
        assert reply["choices"][0]["message"]["content"] is None
        assert reply["choices"][0]["finish_reason"] == ("content_filter" if fault == "refusal" else "stop")


async def test_faults_follow_their_rates_and_their_seed(http: aiohttp.ClientSession) -> None:
    faults = FaultSettings(server_error=0.3, refusal=0.2, seed=5)
    (first, stats), (second, _) = await outcomes(http, faults, 200), await outcomes(http, faults, 200)
    assert [status for status, *_ in first] == [status for status, *_ in second]
    assert 40 <= stats["faults"]["server_error"] <= 80
    assert 22 <= stats["faults"]["refusal"] <= 58


def test_fault_rates_are_checked() -> None:
    with pytest.raises(ValidationError, match=r"sum to 1\.2; lower them"):
        FaultSettings(rate_limit=0.6, hang=0.6)
    with pytest.raises(ValidationError):
        FaultSettings(hang=-0.1)
    with pytest.raises(ValueError, match="latency_scale"):
        CandidateServer(Parrot(), latency_scale=-1)


async def test_stop_ends_hanging_requests_and_frees_the_port(http: aiohttp.ClientSession) -> None:
    server = CandidateServer(Parrot(), faults=FaultSettings(hang=1.0))
    base_url = await server.start()
    request = asyncio.create_task(http.post(f"{base_url}/chat/completions", json=ask()))
    async with asyncio.timeout(5):
        while server.stats()["in_flight"] == 0:  # noqa: ASYNC110 - the server tells nobody when a request comes
            await asyncio.sleep(0.01)
        await server.stop()
        (outcome,) = await asyncio.gather(request, return_exceptions=True)
    assert isinstance(outcome, aiohttp.ClientError) or getattr(outcome, "status", 0) == 500
    again = CandidateServer(Parrot())
    port = int(base_url.split(":")[2].split("/")[0])
    assert await again.start(port=port) == base_url
    await again.stop()


async def test_a_port_in_use_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(ServerError, match=rf"127\.0\.0\.1:{port} .*choose another port"):
            await CandidateServer(Parrot()).start(port=port)
        with pytest.raises(ServerError, match="choose another port"):
            spawn_server(["world"], port=port)


def replies_file(folder: Path) -> Path:
    path = folder / "replies.jsonl"
    path.write_text(json.dumps(ROW | {"model": "ChatGPT-4"}) + "\n")
    return path


def gone(pid: int, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.engine
def test_a_spawned_server_answers_and_leaves_nothing(tmp_path: Path) -> None:
    process, base_url = spawn_server(["recorded", "--replies", str(replies_file(tmp_path)), "--latency-scale", "0"])
    try:
        body = json.dumps(ask("who wrote hamlet") | {"model": "ChatGPT-4"}).encode()
        with urllib.request.urlopen(f"{base_url}/chat/completions", data=body, timeout=5) as response:
            assert json.load(response)["choices"][0]["message"]["content"] == "Shakespeare"
        # A model that there is not: the module that runs as a script must know the answerer's exception.
        body = json.dumps(ask()).encode()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{base_url}/chat/completions", data=body, timeout=5)
    finally:
        stop_server(process)
    assert process.returncode == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{base_url}/models", timeout=5)


@pytest.mark.engine
def test_a_spawned_server_dies_with_a_parent_that_is_killed() -> None:
    code = (
        "import sys, threading, time\n"
        "from benchmarks.world.server import spawn_server\n"
        "def spawn():\n"
        "    process, url = spawn_server(['world', '--seed', '7'])\n"
        "    print(process.pid, flush=True)\n"
        "thread = threading.Thread(target=spawn); thread.start(); thread.join()\n"
        "time.sleep(1.0); print('still', flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    try:
        child = int(parent.stdout.readline())
        assert parent.stdout.readline() == "still\n"
        os.kill(child, 0)  # it outlives the thread that started it
        parent.send_signal(signal.SIGKILL)
        parent.wait(5)
        assert gone(child)
    finally:
        parent.kill()
        parent.wait(5)
        parent.stdout.close()


@pytest.mark.engine
def test_a_server_that_can_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"ended with code 2(.|\n)*no such file"):
        spawn_server(["recorded", "--replies", str(tmp_path / "none.jsonl")])
    with pytest.raises(ServerError, match="--fault takes NAME=RATE"):
        spawn_server(["world", "--fault", "rate_limit"])
    with pytest.raises(ServerError, match=r"did not answer /healthz within 0\.01 s"):
        spawn_server(["world"], timeout_s=0.01)


def test_latencies_are_lognormal_where_told() -> None:
    server = CandidateServer(Parrot(), lognormal=(0.8, 8.0))
    drawn = sorted(server._draw_latency(Answer("a", 1, 1, 0.0)) for _ in range(20_000))
    assert drawn[10_000] == pytest.approx(0.8, rel=0.05)
    assert drawn[19_800] == pytest.approx(8.0, rel=0.15)
    with pytest.raises(ValueError, match="median above 0"):
        CandidateServer(Parrot(), lognormal=(8.0, 0.8))
