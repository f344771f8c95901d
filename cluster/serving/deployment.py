"""`router-r1 serve`: a Ray Serve app that answers from a checkpoint, in OpenAI's chat-completions format."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from ray import serve as ray_serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from rich.console import Console
from starlette.exceptions import HTTPException

from actors.episodes.episode import PromptTooLong
from actors.episodes.trajectory import Trajectory
from actors.pool.cards import ModelCard
from cluster.episodes.candidates import start_candidates
from cluster.players.responder import (
    Ask,
    PolicySource,
    PolicyUnavailable,
    Responder,
    check_candidates,
    open_source,
)
from cluster.serving.chat_api import MODEL, ApiError, ChatRequest, Reply, no_such_model, parse_chat_request, void_error
from cluster.serving.live_trace import Trace
from cluster.session.ray_session import cluster_address, start_ray
from cluster.session.stopping import stop_on_sigterm
from rewards.transcript import StopReason

_APP = "router-r1"
_SHUTDOWN_S = 40.0  # the engine may take 20 s to end
_REPLICA_START_S = 60.0  # of the process, beyond the engine's own start
_POLL_S = 0.25
_PING_S = 25.0  # within the 30 s that Ray gives a check
_WATCH_S = 5.0


class ServingError(RuntimeError):
    """The service can't be had; the message says why, and the remedy."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What the service takes."""

    num_cpus: float = 0.5  # that Ray sets aside for the replica
    max_in_flight: int = 256  # requests; one more is answered 429
    request_timeout_s: float = 300.0


app = FastAPI(title="Router-R1", openapi_url=None)


class PolicyService:
    """One replica: a policy engine, a candidate caller, and the three routes."""

    async def __init__(self, source: PolicySource, cards: Sequence[ModelCard], settings: ServiceSettings) -> None:  # type: ignore[misc]
        self._settings = settings
        self._in_flight = 0
        self._started = int(time.time())
        self._responder = Responder(source, cards)
        await self._responder.start()

    async def __del__(self) -> None:
        await self._responder.close()

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica whose engine did not answer three times on end."""
        await self._responder.ping(_PING_S)

    @app.post("/v1/chat/completions")
    async def complete(self, request: Request) -> Response:
        chat = parse_chat_request(await request.body())
        reply = Reply(self._responder.source.version)
        if not chat.stream:
            parts: list[str] = []
            trajectory = await self._play(chat.ask, Trace(parts.append))
            return JSONResponse(reply.whole(trajectory, "".join(parts).strip()))
        chunks = self._chunks(chat, reply)
        # What goes wrong before the policy's first word is still told by the HTTP status.
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
            ApiError: too many requests, too long a question, too late, a candidate or the engine failed.
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

    async def _chunks(self, chat: ChatRequest, reply: Reply) -> AsyncGenerator[dict[str, Any], None]:
        """The reply as chunks while the episode runs; closing the generator ends the episode."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        trace = Trace(
            lambda text: queue.put_nowait(reply.delta(reasoning_content=text)),
            lambda call: queue.put_nowait(reply.route(call)),
        )
        task = asyncio.create_task(self._play(chat.ask, trace))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        role = {"role": "assistant"}  # said once, in the first chunk
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
    """Chunks as server-sent events; an error in mid-stream becomes the last event."""
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
    """A fault of ours: its traceback goes to the replica's log, not to the client."""
    return JSONResponse(ApiError(500, "the service failed; its log tells why").body(), status_code=500)


def serve(
    spec: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    recipe: str = "quickstart",
    overrides: Sequence[str] = (),
    settings: ServiceSettings | None = None,
    console: Console | None = None,
) -> None:
    """Serve the policy of a run or checkpoint until Ctrl-C or SIGTERM, then stop all that was started.

    It joins the Ray cluster of `placement.address` or RAY_ADDRESS, else starts one on this machine. Port 0 takes
    any free one. Only the main thread may call it. Its calls are in the run's ledger, as those of `ask` are.

    Raises:
        ServingError: the port is in use, or the service does not start.
        RunFolderError, ConfigError, ServerError: see `open_source` and `start_candidates`.
        CrewError: Ray can't be joined or started.
    """
    settings, console = settings or ServiceSettings(), console or Console(highlight=False)
    source = open_source(spec, recipe, overrides)
    config = source.config
    port = _free_port(host, port)
    stop_on_sigterm()
    with start_candidates(config) as candidates:
        # Asked from here first: an actor's failure would reach the terminal as a long trace.
        asyncio.run(check_candidates(source, candidates.cards))
        with _joined_ray(config.placement.address), _started_serve(host, port):
            with console.status(f"starting the policy {source.name} …"):
                _deploy(source, candidates.cards, settings)
            console.print(_welcome(source, host, port), markup=False, soft_wrap=True)
            with contextlib.suppress(KeyboardInterrupt):
                _stay(console)
            console.print("stopping …")


def _deploy(source: PolicySource, cards: Sequence[ModelCard], settings: ServiceSettings) -> None:
    """Start the app and wait until it answers.

    Raises:
        ServingError: its replica failed to start, or was not ready in time.
    """
    engine = source.config.engine
    gpus = engine.tensor_parallel_size if engine.device == "cuda" else 0
    service = ray_serve.deployment(
        ray_serve.ingress(app)(PolicyService),
        name="policy",
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=_SHUTDOWN_S,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": gpus},
        # Above our own limit, so that it is we who refuse, and health is still told when full.
        max_ongoing_requests=settings.max_in_flight + 32,
    )
    target = ray_serve.RunTarget(service.bind(source, cards, settings), name=_APP, route_prefix="/")
    ray_serve.run_many([target], wait_for_applications_running=False)
    deadline_s = engine.start_timeout_s + _REPLICA_START_S
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        overview = ray_serve.status().applications[_APP]
        if overview.status == ApplicationStatus.RUNNING:
            return
        if overview.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise ServingError(f"the service did not start: {_reason(overview)}")
        time.sleep(_POLL_S)
    raise ServingError(
        f"the service was not ready within {deadline_s:g} s (engine.start_timeout_s and {_REPLICA_START_S:g} s); it "
        f"asks for {settings.num_cpus:g} CPUs and {gpus} GPUs of {ray.cluster_resources()}: {_reason(overview)}"
    )


def _stay(console: Console) -> None:
    """Wait for KeyboardInterrupt; tell when the app fails and when it is back."""
    known = ApplicationStatus.RUNNING
    while True:
        time.sleep(_WATCH_S)
        overview = ray_serve.status().applications[_APP]
        if overview.status != known:
            known = overview.status
            why = "" if known == ApplicationStatus.RUNNING else f": {_reason(overview)}"
            console.print(f"the service is {known.value}{why}", markup=False, soft_wrap=True)


def _reason(overview: ApplicationStatusOverview) -> str:
    """The last line of the first message there is: where a replica failed, that of its exception."""
    messages = [deployment.message for deployment in overview.deployments.values()]
    text = next((message for message in (*messages, overview.message) if message.strip()), "no reason was given")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next(
        (line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception|Unavailable): ", line)), lines[-1]
    )


@contextmanager
def _joined_ray(address: str | None) -> Iterator[None]:
    """Join or start a Ray cluster, where this process is in none yet, and leave it or end it."""
    if ray.is_initialized():
        yield
        return
    try:
        start_ray(cluster_address(address))
        stop_on_sigterm()  # Ray has put its own handler there
        yield
    finally:
        with _undisturbed():
            ray.shutdown()


@contextmanager
def _started_serve(host: str, port: int) -> Iterator[None]:
    """Start Ray Serve's proxy on an address, and end it.

    Raises:
        ServingError: the cluster runs Serve already; its address could not be changed.
    """
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        pass
    else:
        raise ServingError(
            "the Ray cluster runs Ray Serve already, and its port can't be changed; end it with `serve shutdown`, or "
            "unset RAY_ADDRESS to serve from a Ray of its own"
        )
    try:
        ray_serve.start(http_options={"host": host, "port": port}, logging_config={"log_level": "WARNING"})
        yield
    finally:
        with _undisturbed():
            ray_serve.shutdown()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Finish a clean-up although Ctrl-C is pressed again."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        ServingError: it can't be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as server:
            return int(server.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise ServingError(
            f"can't listen on {host}:{port} ({error}); give another --host or --port (0: any)"
        ) from error


def _welcome(source: PolicySource, host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{shown}:{port}"
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "QUESTION"}]})
    return (
        f"{source.name} answers at {url}/v1 (also {url}/healthz). Ctrl-C stops it. Try\n"
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
    )
