"""The way out of a command: one message and its exit code, whether it failed or was stopped."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

import typer

from cluster.session import stopping


@contextlib.contextmanager
def stoppable(saved: Callable[[], str] | None = None) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a message and the shell's exit code for them."""
    try:
        yield
    except KeyboardInterrupt:
        what = f"; {saved()}" if saved else ""
        typer.secho(f"stopped{what}", fg="yellow", err=True)
        raise typer.Exit(stopping.exit_code()) from None


def fail(message: str) -> NoReturn:
    """Say what is wrong, and end with exit code 2."""
    typer.secho(f"error: {message}", fg="red", err=True)
    sys.exit(2)
