"""`router-r1 frontier`: quality against dollars, of evaluations and runs; what draws is imported by the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.command import stoppable


def frontier(
    folders: Annotated[list[Path], typer.Argument(help="Evaluation folders, run folders, any number of them.")],
    out: Annotated[Path, typer.Option(help="Folder for frontier.csv, frontier.png and frontier.html.")] = Path(
        "runs/frontier"
    ),
) -> None:
    """Draw quality against dollars: baselines over λ, policies over α.

    Prints the area under each method's frontier, and how much it closes of the gap between the best single candidate
    and the oracle. Rows of the paper on the same data sets stand in the table and the page, marked as published and not
    drawn: their candidates and prices were others.

    \b
    Examples:
      router-r1 evaluate world --lambda 0 --lambda 0.05 --lambda 0.2 --out runs/evaluations/world
      router-r1 frontier runs/evaluations/world runs/NAME --out runs/frontier
    """
    with stoppable():
        from cluster.frontier import describe, published_beside, read_points, write_frontier

        quoted = published_beside(folders)
        points, notes = read_points(folders)
        typer.echo(describe(write_frontier(points, notes, out, quoted), notes))
        typer.echo(f"{len(points)} points are in {out}", err=True)
