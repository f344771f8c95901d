"""An OpenAI-compatible HTTP server for candidates, with latency and faults to order."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import math
import random
import signal
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, Protocol

from aiohttp import web
from pydantic import ValidationError

from benchmarks.world.chat_format import (
    Answer,
    CandidateRequest,
    UnknownModel,
    read_request,
    write_chunks,
    write_error,
    write_reply,
)
from benchmarks.world.faults import BEFORE_ANSWER, FaultSettings
from benchmarks.world.process import ServerError, exit_with_parent, listen, spawn_server, stop_server

__all__ = [
    "Answer",
    "Answerer",
    "CandidateServer",
    "FaultSettings",
    "ServerError",
    "UnknownModel",
    "spawn_server",
    "stop_server",
]

_log = logging.getLogger(__name__)

_Z99 = NormalDist().inv_cdf(0.99)
_HANG_S = 600.0  # a hanging request ends at last, should its client never go


class Answerer(Protocol):
    """Who answers behind the server."""

    @property
    def models(self) -> Sequence[str]:
        """The ids of its models."""
        ...

    def answer(self, model: str, query: str, question_id: str | None) -> Answer:
        """Answer without delay; the server waits out the latency.

        Raises:
            UnknownModel: there is no such model.
        """
        ...


class CandidateServer:
    """Serves an answerer's models: /v1/models, /v1/chat/completions, /healthz and /stats.

    A call is billed once its answer was made, so also where it is then cut off, refused or sent without usage;
    the faults that come before the answer (see `faults.BEFORE_ANSWER`) are billed nothing.
    """

    def __init__(
        self,
        answerer: Answerer,
        *,
        latency_scale: float = 1.0,
        lognormal: tuple[float, float] | None = None,
        faults: FaultSettings | None = None,
    ) -> None:
        """`latency_scale` multiplies the answers' latency; 0 answers at once. With `lognormal` they are drawn, of this
        median and 99th percentile in seconds.

        Raises:
            ValueError: `latency_scale` is negative, or the 99th percentile below the median.
        """
        if lognormal is not None and not 0 < lognormal[0] <= lognormal[1]:
            raise ValueError(f"latencies need a median above 0 and a 99th percentile no less, got {lognormal}")
        if not latency_scale >= 0:
            raise ValueError(f"latency_scale must be 0 or more, got {latency_scale}")
        self._answerer = answerer
        self._latency_scale = latency_scale
        self._lognormal = lognormal
        self._latencies = random.Random("latencies")
        self._faults = faults or FaultSettings()
        self._random = random.Random(self._faults.seed)
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()
        self._in_flight = 0
        self._calls: Counter[str] = Counter()
        self._prompt_tokens: Counter[str] = Counter()
        self._completion_tokens: Counter[str] = Counter()
        self._fault_counts: Counter[str] = Counter()

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, listener: socket.socket | None = None) -> str:
        """Start serving and return the base URL, up to and including /v1; port 0 takes a free one.

        Raises:
            ServerError: the port is in use or can't be had.
        """
        if listener is None:
            listener = listen(host, port)
        bound_port = listener.getsockname()[1]
        app = web.Application(client_max_size=4 << 20)
        app.router.add_get("/v1/models", self._get_models)
        app.router.add_post("/v1/chat/completions", self._post_completion)
        app.router.add_get("/healthz", self._get_health)
        app.router.add_get("/stats", self._get_stats)
        # A client that goes must end its request here, or hanging ones would pile up.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        self._stopping.clear()
        self._runner = runner
        return f"http://{host}:{bound_port}/v1"

    async def stop(self) -> None:
        """End every request and close the port."""
        self._stopping.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def stats(self) -> dict[str, Any]:
        """Calls and billed tokens by model, faults by kind, requests under way."""
        billed = {
            model: {"prompt": self._prompt_tokens[model], "completion": self._completion_tokens[model]}
            for model in self._calls
        }
        faults = dict(self._fault_counts)
        return {"calls": dict(self._calls), "billed_tokens": billed, "faults": faults, "in_flight": self._in_flight}

    async def _get_health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _get_stats(self, request: web.Request) -> web.Response:
        return web.json_response(self.stats())

    async def _get_models(self, request: web.Request) -> web.Response:
        rows = [{"id": model, "object": "model", "owned_by": "router-r1"} for model in self._answerer.models]
        return web.json_response({"object": "list", "data": rows})

    async def _post_completion(self, request: web.Request) -> web.StreamResponse:
        self._in_flight += 1
        try:
            chat = read_request(await request.read())
            answer = self._answerer.answer(chat.model, chat.query, chat.question_id)
        except UnknownModel:
            known = ", ".join(self._answerer.models)
            return _error(404, "model_not_found", f"there is no model {chat.model!r}; there are {known}")
        except ValueError as error:
            return _error(400, "invalid_request_error", str(error))
        else:
            return await self._respond(request, chat, answer)
        finally:
            self._in_flight -= 1

    async def _respond(self, request: web.Request, chat: CandidateRequest, answer: Answer) -> web.StreamResponse:
        self._calls[chat.model] += 1
        fault = self._faults.draw(self._random)
        if fault:
            self._fault_counts[fault] += 1
        if fault in BEFORE_ANSWER:
            return await self._fail(fault)
        await asyncio.sleep(self._draw_latency(answer) * self._latency_scale)
        self._prompt_tokens[chat.model] += answer.prompt_tokens
        self._completion_tokens[chat.model] += min(answer.completion_tokens, chat.max_tokens)
        reply = write_reply(chat, answer, fault)
        if fault == "cut_off":
            return await _cut_off(request, json.dumps(reply).encode())
        if chat.stream:
            return await _stream(request, chat, reply)
        return web.json_response(reply)

    def _draw_latency(self, answer: Answer) -> float:
        if self._lognormal is None:
            return answer.latency_s
        median, p99 = self._lognormal
        return median * math.exp(math.log(p99 / median) / _Z99 * self._latencies.gauss(0, 1))

    async def _fail(self, fault: str) -> web.Response:
        if fault == "rate_limit":
            response = _error(429, "rate_limit_exceeded", "too many requests; wait before the next")
            response.headers["Retry-After"] = f"{self._faults.retry_after_s:g}"
            return response
        if fault == "html":
            return web.Response(text="<html><body>Welcome</body></html>", content_type="text/html")
        if fault == "invalid_json":
            return web.Response(text='{"choices": [{"message": ', content_type="application/json")
        if fault == "hang":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _HANG_S)
        return _error(500, "server_error", "the server failed")


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response(write_error(code, message), status=status)


async def _cut_off(request: web.Request, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


async def _stream(request: web.Request, chat: CandidateRequest, reply: dict[str, Any]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for chunk in write_chunks(chat, reply):
        await response.write(chunk)
    await response.write_eof()
    return response


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve from the command line until SIGINT or SIGTERM; exits with status 2 and a message on a wrong option."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        rates: dict[str, Any] = dict(pair.split("=", 1) for pair in options.fault)
        faults = FaultSettings.model_validate(rates | {"seed": options.fault_seed})
    except (ValueError, ValidationError) as error:
        parser.error(f"--fault takes NAME=RATE, as in --fault rate_limit=0.1: {error}")
    if options.parent is not None:
        exit_with_parent(options.parent)
    listener = None if options.fd is None else socket.socket(fileno=options.fd)
    try:
        lognormal = tuple(options.lognormal) if options.lognormal else None
        server = CandidateServer(
            _answerer(options), latency_scale=options.latency_scale, lognormal=lognormal, faults=faults
        )
        asyncio.run(_serve(server, options.host, options.port, listener))
    except (ServerError, ValueError) as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.world.server", description=__doc__)
    modes = parser.add_subparsers(dest="mode", required=True)
    world = modes.add_parser("world", help="the experts of the embedded world")
    world.add_argument("--seed", type=int, default=0, help="seed of the world")
    recorded = modes.add_parser("recorded", help="recorded replies of real models")
    recorded.add_argument("--replies", type=Path, required=True, help="JSONL: id, question, model, response, correct")
    for mode in (world, recorded):
        mode.add_argument("--host", default="127.0.0.1")
        mode.add_argument("--port", type=int, default=8900, help="0 for a free one")
        mode.add_argument("--latency-scale", type=float, default=1.0, help="factor on latencies; 0 answers at once")
        mode.add_argument(
            "--lognormal", type=float, nargs=2, metavar=("MEDIAN", "P99"), help="latencies in seconds, for all models"
        )
        mode.add_argument("--fault", action="append", default=[], metavar="NAME=RATE", help="may be repeated")
        mode.add_argument("--fault-seed", type=int, default=0)
        mode.add_argument("--fd", type=int, help="a listening socket handed down by the parent process")
        mode.add_argument("--parent", type=int, help="exit when this process, the parent, is gone")
    return parser


def _answerer(options: argparse.Namespace) -> Answerer:
    if options.mode == "world":
        from benchmarks.world.experts import WorldAnswerer

        return WorldAnswerer(options.seed)
    from benchmarks.world.recorded import RecordedAnswerer

    return RecordedAnswerer(options.replies)


async def _serve(server: CandidateServer, host: str, port: int, listener: socket.socket | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    base_url = await server.start(host, port, listener=listener)
    _log.info("serving at %s", base_url)
    await stop.wait()
    await server.stop()


if __name__ == "__main__":
    main()
