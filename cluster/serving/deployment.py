"""`router-r1 serve`: a Ray Serve app that answers from a checkpoint, in OpenAI's chat-completions format."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray
from ray import serve as ray_serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from rich.console import Console

from actors.errors import ExplainedError
from actors.pool.cards import ModelCard
from cluster.episodes.candidates import start_candidates
from cluster.players.responder import (
    PolicySource,
    check_candidates,
    open_source,
)
from cluster.serving.chat_api import MODEL
from cluster.serving.service import PolicyService, ServiceSettings, app
from cluster.session.address import cluster_address
from cluster.session.ray_session import start_ray
from cluster.session.stopping import stop_on_sigterm

_APP = "router-r1"
_SHUTDOWN_S = 40.0  # the engine may take 20 s to end
_REPLICA_START_S = 60.0  # of the process, beyond the engine's own start
_POLL_S = 0.25
_WATCH_S = 5.0


class ServingError(ExplainedError, RuntimeError):
    """The service can't be started; the message says why, and the remedy."""


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
    """Serve the policy of a run or checkpoint until Ctrl-C or SIGTERM, then stop everything that it started.

    It joins the Ray cluster of `placement.address` or RAY_ADDRESS, else starts one on this machine. Port 0 means any
    free port. Only the main thread may call this. Calls are recorded in the same ledger as those of `ask`.

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
        # Checked here first, because a failure in an actor would reach the terminal as a long trace.
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
        ServingError: the app's replica failed to start, or was not ready in time.
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
        # Above our own limit, so that the service itself refuses requests (429), and still answers /healthz when full.
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
    """Wait for KeyboardInterrupt; print when the app fails and when it runs again."""
    known = ApplicationStatus.RUNNING
    while True:
        time.sleep(_WATCH_S)
        overview = ray_serve.status().applications[_APP]
        if overview.status != known:
            known = overview.status
            why = "" if known == ApplicationStatus.RUNNING else f": {_reason(overview)}"
            console.print(f"the service is {known.value}{why}", markup=False, soft_wrap=True)


def _reason(overview: ApplicationStatusOverview) -> str:
    """The last line of the first message that is not empty or, if a replica failed, the line of its exception."""
    messages = [deployment.message for deployment in overview.deployments.values()]
    text = next((message for message in (*messages, overview.message) if message.strip()), "no reason was given")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next(
        (line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception|Unavailable): ", line)), lines[-1]
    )


@contextmanager
def _joined_ray(address: str | None) -> Iterator[None]:
    """Join or start a Ray cluster, and leave or end it at the end; do neither if this process is in one already."""
    if ray.is_initialized():
        yield
        return
    try:
        start_ray(cluster_address(address))
        stop_on_sigterm()  # Ray has replaced our handler
        yield
    finally:
        with _undisturbed():
            ray.shutdown()


@contextmanager
def _started_serve(host: str, port: int) -> Iterator[None]:
    """Start Ray Serve's proxy on an address, and end it at the end.

    Raises:
        ServingError: the cluster runs Serve already, whose address can't be changed.
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
    """Ignore Ctrl-C and SIGTERM until a clean-up is finished."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        ServingError: the service can't listen on it.
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
