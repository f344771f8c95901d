"""A provider for benches, in a process of its own: lean enough not to be what is measured, and with books of its own.

It speaks as much of OpenAI's protocol as a chat completion takes, straight on asyncio's transports. Commands come
as JSON lines on standard input, each answered by one on standard output; it ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import resource
import sys
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from benchmarks.world.faults import FaultSettings

CHARACTERS_PER_TOKEN = 3.6  # not what callers estimate with: they have to learn it from the usage that is reported
REPLY = "The answer to this is not known for certain, but the best guess is the town of Example."
REPLY_TOKENS = math.ceil(len(REPLY) / CHARACTERS_PER_TOKEN)
_MODELS = b'{"object":"list","data":[]}'


@dataclass(slots=True)
class Books:
    """What the provider has seen.

    It bills what it generates, as providers do: also a completion that then goes out garbled, goes out in part or
    never goes out, as long as the client has not hung up before.
    """

    requests: int = 0
    billed: int = 0
    prompt_tokens: int = 0  # billed
    completion_tokens: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    slowest_s: float = 0.0  # longest latency drawn since the last reset
    faults: dict[str, int] = field(default_factory=dict)

    def bill(self, prompt_tokens: int) -> None:
        self.billed += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += REPLY_TOKENS


class Provider:
    """The state that all connections share, and what the commands change."""

    def __init__(self) -> None:
        self.books = Books()
        self.faults = FaultSettings()
        self.median_s = 0.0  # latency is lognormal; 0 answers at once
        self.sigma = 0.0
        self.connections: set[Connection] = set()
        self._random = random.Random(0)
        self._server: asyncio.Server | None = None
        self._port = 0

    async def up(self) -> int:
        """Listen, on the same port as before."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self._port, backlog=4096)
            self._port = self._server.sockets[0].getsockname()[1]
        return self._port

    def down(self) -> None:
        """Be gone: no new connection is taken, those there are break."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in [*self.connections]:
            connection.abort()

    def set(self, *, median_s: float, sigma: float, seed: int, faults: dict[str, float]) -> None:
        """Behave so from now on, with new books."""
        self.faults = FaultSettings.model_validate(faults)
        self.median_s, self.sigma = median_s, sigma
        self._random = random.Random(seed)
        self.books = Books(in_flight=self.books.in_flight)

    def draw_fault(self) -> str:
        return self.faults.draw(self._random)

    def draw_latency(self) -> float:
        latency = self.median_s * math.exp(self.sigma * self._random.gauss(0, 1)) if self.median_s else 0.0
        self.books.slowest_s = max(self.books.slowest_s, latency)
        return latency


class Connection(asyncio.Protocol):
    """One client's connection: a request at a time."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._provider.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._provider.connections.discard(self)
        self._transport = None

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            length = _content_length(head)
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            if head.startswith(b"POST"):
                self._asked(body)
            else:
                self._send(200, _MODELS)

    def _asked(self, body: bytes) -> None:
        provider, books = self._provider, self._provider.books
        books.requests += 1
        books.in_flight += 1
        books.most_in_flight = max(books.most_in_flight, books.in_flight)
        fault = provider.draw_fault()
        if fault:
            books.faults[fault] = books.faults.get(fault, 0) + 1
        latency = provider.draw_latency()
        if latency:
            asyncio.get_running_loop().call_later(latency, self._answer, body, fault)
        else:
            self._answer(body, fault)

    def _answer(self, body: bytes, fault: str) -> None:
        provider = self._provider
        provider.books.in_flight -= 1
        if self._transport is None:
            return
        if fault == "rate_limit":
            self._send(429, b'{"error":{"message":"too many requests"}}', provider.faults.retry_after_s)
            return
        if fault == "server_error":
            self._send(500, b'{"error":{"message":"out of order"}}')
            return
        messages = json.loads(body)["messages"]
        prompt_tokens = math.ceil(sum(len(message["content"]) for message in messages) / CHARACTERS_PER_TOKEN)
        provider.books.bill(prompt_tokens)
        completion = _completion(prompt_tokens, fault)
        if fault == "invalid_json":
            self._send(200, completion[:-1])
        elif fault == "cut_off":
            self._send(200, completion[: len(completion) // 2], length=len(completion))
            self._transport.close()
        elif fault != "hang":
            self._send(200, completion)

    def _send(self, status: int, body: bytes, retry_after_s: float = 0.0, length: int | None = None) -> None:
        assert self._transport is not None
        more = f"Retry-After: {retry_after_s:g}\r\n" if retry_after_s else ""
        head = (
            f"HTTP/1.1 {status} .\r\nContent-Type: application/json\r\n{more}"
            f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)


def _content_length(head: bytes) -> int:
    lower = head.lower()
    start = lower.find(b"content-length:")
    if start < 0:
        return 0
    end = lower.find(b"\r\n", start)
    return int(lower[start + 15 : end if end >= 0 else None])


def _completion(prompt_tokens: int, fault: str) -> bytes:
    prompt, completion = (-1, -1) if fault == "wrong_usage" else (prompt_tokens, REPLY_TOKENS)
    usage = f'{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{prompt + completion}}}'
    return (
        '{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":'
        f'"stop","message":{{"role":"assistant","content":"{REPLY}"}}}}],"usage":{usage}}}'
    ).encode()


async def _obey(provider: Provider, command: dict[str, Any]) -> dict[str, Any]:
    match command.pop("do"):
        case "up":
            return {"port": await provider.up()}
        case "down":
            provider.down()
        case "set":
            provider.set(**command)
        case "books":
            return asdict(provider.books)
        case unknown:
            raise ValueError(f"unknown command {unknown!r}; there are up, down, set and books")
    return {}


async def _serve() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    provider = Provider()
    while line := await reader.readline():
        answer = await _obey(provider, json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_serve())


if __name__ == "__main__":
    main()
