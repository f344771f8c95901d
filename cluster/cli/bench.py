"""`router-r1 bench`: measures figures and compares them with their targets."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Annotated

import typer

from cluster.cli.output import stoppable


def bench(
    name: Annotated[str, typer.Argument(help="caller, score, startup, world, …")],
    json_: Annotated[bool, typer.Option("--json", help="Print rows as JSON.")] = False,
) -> None:
    """Measure figures and compare them with their targets.

    Prints a row for each figure; exits with 1 if a target is missed.
    """
    from benchmarks.benches.figures import report
    from cluster.benches.suite import run_bench

    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress, on standard error

    with stoppable():
        with contextlib.redirect_stdout(sys.stderr):  # libraries print, too; stdout is for the rows only
            figures = run_bench(name)
        raise typer.Exit(report(figures, sys.stdout, as_json=json_))
