"""A candidate server in a process of its own: started, waited for, stopped, and gone when its parent is."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO

from actors.child_process import child_environment, python_command
from actors.errors import ExplainedError

_PARENT_POLL_S = 0.25
_READY_POLL_S = 0.05


class ServerError(ExplainedError, RuntimeError):
    """The server can't be had; the message names its address and the remedy."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        ServerError: the port is in use, or the address can't be had.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ServerError(
            f"can't listen on {host}:{port} ({error}); stop whatever listens there, or choose another port (0 for "
            "a free one)"
        ) from error
    return listener


def spawn_server(
    arguments: Sequence[str], *, host: str = "127.0.0.1", port: int = 0, timeout_s: float = 30.0
) -> tuple[subprocess.Popen[bytes], str]:
    """Start `python -m benchmarks.world.server ARGUMENTS` and return its process and base URL once it answers.

    `arguments` are a mode and its options, such as `["world", "--seed", "7"]`, without an address. The port is
    bound here and handed down, so that its number is known and no other process can take it in between. The
    server exits by itself when the calling process ends, in whatever way. Stop it with `stop_server`.

    Raises:
        ServerError: the port is in use, the server ends at once, or it is not ready within `timeout_s`.
    """
    listener = listen(host, port)
    port = listener.getsockname()[1]
    command = python_command("-m", "benchmarks.world.server", *arguments, "--host", host)
    command += ["--fd", str(listener.fileno()), "--parent", str(os.getpid())]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=messages,
            pass_fds=(listener.fileno(),),
            env=child_environment(),
        )
        listener.close()
        try:
            _wait_ready(process, host, port, timeout_s, messages)
        except BaseException:
            stop_server(process)
            raise
    return process, f"http://{host}:{port}/v1"


def stop_server(process: subprocess.Popen[bytes], timeout_s: float = 5.0) -> None:
    """Terminate the server and reap it; kill it where it does not end within `timeout_s`."""
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout_s)


def exit_with_parent(parent: int) -> None:
    """End this process soon after its parent, the process `parent`, is gone.

    The parent's id is polled: the kernel's parent-death signal follows the thread that started a process, not
    the parent itself, and a pipe is held open by every other fork of the parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_S)
        os._exit(0)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _wait_ready(process: subprocess.Popen[bytes], host: str, port: int, timeout_s: float, messages: IO[bytes]) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            messages.seek(0)
            said = messages.read().decode("utf-8", "replace").strip()[-1000:]
            raise ServerError(f"the candidate server on {host}:{port} ended with code {process.returncode}: {said}")
        if _healthy(host, port, min(1.0, max(0.001, deadline - time.monotonic()))):
            return
        time.sleep(_READY_POLL_S)
    raise ServerError(f"the candidate server on {host}:{port} did not answer /healthz within {timeout_s:g} s")


def _healthy(host: str, port: int, timeout_s: float) -> bool:
    """True once /healthz answers; the kernel accepts connections for a server that is still starting."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
