"""The app that serves a checkpoint: requests in, completions out, in OpenAI's chat-completions format."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from actors.episodes.episode import PromptTooLong
from actors.episodes.trajectory import Trajectory
from actors.pool.cards import ModelCard
from cluster.players.responder import (
    Ask,
    PolicySource,
    PolicyUnavailable,
    Responder,
)
from cluster.serving.chat_api import (
    MODEL,
    ApiError,
    ChatCompletion,
    ChatRequest,
    no_such_model,
    parse_chat_request,
    void_error,
)
from cluster.serving.live_trace import Trace
from rewards.transcript import StopReason

_PING_S = 25.0  # within the 30 s that Ray gives a check


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """The limits of the service."""

    num_cpus: float = 0.5  # that Ray reserves for the replica
    max_in_flight: int = 256  # requests at a time; further ones are answered 429
    request_timeout_s: float = 300.0


app = FastAPI(title="Router-R1", openapi_url=None)


class PolicyService:
    """One replica: a policy engine, a candidate caller, and the HTTP routes."""

    async def __init__(self, source: PolicySource, cards: Sequence[ModelCard], settings: ServiceSettings) -> None:  # type: ignore[misc]
        self._settings = settings
        self._in_flight = 0
        self._started = int(time.time())
        self._responder = Responder(source, cards)
        await self._responder.start()

    async def __del__(self) -> None:
        await self._responder.close()

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica after three failures in a row: its engine does not answer."""
        await self._responder.ping(_PING_S)

    @app.post("/v1/chat/completions")
    async def complete(self, request: Request) -> Response:
        chat = parse_chat_request(await request.body())
        reply = ChatCompletion(self._responder.source.version)
        if not chat.stream:
            parts: list[str] = []
            trajectory = await self._play(chat.ask, Trace(parts.append))
            return JSONResponse(reply.whole(trajectory, "".join(parts).strip()))
        chunks = self._chunks(chat, reply)
        # If something fails before the policy's first word, the HTTP status can still say so.
        first = await anext(chunks)
        return StreamingResponse(_events(first, chunks), media_type="text/event-stream")

    @app.get("/v1/models")
    async def list_models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._model()]}

    @app.get("/v1/models/{name}")
    async def get_model(self, name: str) -> dict[str, Any]:
        if name != MODEL:
            raise no_such_model(name)
        return self._model()

    @app.get("/healthz")
    async def get_health(self) -> dict[str, Any]:
        source = self._responder.source
        try:
            self._responder.check_health()
        except PolicyUnavailable as error:
            raise ApiError(503, str(error), code="policy_unavailable") from error
        return {
            "status": "ok",
            "model": MODEL,
            "policy": source.name,
            "policy_version": source.version,
            "checkpoint": str(source.checkpoint),
            "candidates": [card.name for card in self._responder.cards],
            "in_flight": self._in_flight,
        }

    def _model(self) -> dict[str, Any]:
        return {"id": MODEL, "object": "model", "created": self._started, "owned_by": "router-r1"}

    async def _play(self, ask: Ask, trace: Trace) -> Trajectory:
        """Play one episode within the limits of the service.

        Raises:
            ApiError: there are too many requests, the question is too long, the answer is late, or a candidate or the
                engine failed.
        """
        limit, deadline_s = self._settings.max_in_flight, self._settings.request_timeout_s
        if self._in_flight >= limit:
            raise ApiError(429, f"{limit} requests are under way; try again later", code="rate_limit_exceeded")
        self._in_flight += 1
        try:
            async with asyncio.timeout(deadline_s):
                trajectory = await self._responder.respond(ask, trace)
        except TimeoutError as error:
            raise ApiError(504, f"no answer within {deadline_s:g} s", code="timeout", retry=False) from error
        except PromptTooLong as error:
            raise ApiError(400, str(error), code="context_length_exceeded", param="messages") from error
        except PolicyUnavailable as error:
            raise ApiError(503, str(error), code="policy_unavailable") from error
        finally:
            self._in_flight -= 1
        if trajectory.transcript.stop_reason is StopReason.VOID:
            raise void_error(trajectory)
        trace.finish(answered=trajectory.transcript.answer is not None)
        return trajectory

    async def _chunks(self, chat: ChatRequest, reply: ChatCompletion) -> AsyncGenerator[dict[str, Any], None]:
        """The reply as chunks while the episode runs; closing the generator ends the episode."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        trace = Trace(
            lambda text: queue.put_nowait(reply.delta(reasoning_content=text)),
            lambda call: queue.put_nowait(reply.route(call)),
        )
        task = asyncio.create_task(self._play(chat.ask, trace))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        role = {"role": "assistant"}  # sent once, in the first chunk
        try:
            while (chunk := await queue.get()) is not None:
                if role:
                    yield reply.delta(**role)
                    role = {}
                yield chunk
            trajectory = await task
        finally:
            task.cancel()
            await asyncio.wait([task])
        yield reply.delta(**role, content=trajectory.transcript.answer or "")
        yield reply.last(trajectory)
        if chat.include_usage:
            yield reply.usage(trajectory)


async def _events(first: dict[str, Any], rest: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[str, None]:
    """Chunks as server-sent events; an error in the middle of the stream becomes the last event."""
    yield _event(first)
    async with aclosing(rest):
        try:
            async for chunk in rest:
                yield _event(chunk)
        except ApiError as error:
            yield _event(error.body())
            return
    yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


@app.exception_handler(ApiError)
async def _tell(request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


@app.exception_handler(HTTPException)
async def _tell_http(request: Request, error: HTTPException) -> Response:
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(ApiError(error.status_code, message).body(), status_code=error.status_code)


@app.exception_handler(Exception)
async def _tell_fault(request: Request, error: Exception) -> Response:
    """A bug of the service: its traceback goes to the replica's log, not to the client."""
    return JSONResponse(ApiError(500, "the service failed; its log tells why").body(), status_code=500)
