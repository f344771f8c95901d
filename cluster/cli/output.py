"""What commands put out: tables, and one message with its exit code where they fail or are stopped."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

import typer

from benchmarks.evaluation.tables import UNKNOWN, Table
from cluster.session import stopping

_PIPED_WIDTH = 240


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


def print_table(table: Table, *, framed: bool = True) -> None:
    """Print a table to standard output, its title above it; nothing where it has no rows."""
    if not table.rows:
        return
    from rich.box import HEAVY_HEAD
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(title=table.title or None, box=HEAVY_HEAD if framed else None, pad_edge=framed)
    for column in table.columns:
        name = f"{column.name}, {column.unit}" if column.unit else column.name
        grid.add_column(Text(name), justify="right" if column.numeric else "left")
    for row in table.rows:
        grid.add_row(*(Text(UNKNOWN if cell is None else cell) for cell in row))  # not markup: brackets stay
    console = Console(file=sys.stdout)
    # When output is piped, use a wide table so that no cell wraps or is truncated.
    Console(file=sys.stdout, width=console.width if console.is_terminal else _PIPED_WIDTH).print(grid)
