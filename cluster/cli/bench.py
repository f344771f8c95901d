"""`router-r1 bench`: figures against their targets."""

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
    """Measure figures against their targets.

    Prints a row per figure; exits with 1 where a target does not hold.
    """
    from benchmarks.benches.figures import report
    from cluster.benches.suite import run_bench

    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress, on standard error

    with stoppable():
        with contextlib.redirect_stdout(sys.stderr):  # libraries print, too, and the rows should stand alone
            figures = run_bench(name)
        raise typer.Exit(report(figures, sys.stdout, as_json=json_))
