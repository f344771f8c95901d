"""`router-r1 frontier`: quality against dollars, of evaluations and runs. The command imports the drawing code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.output import stoppable


def frontier(
    folders: Annotated[list[Path], typer.Argument(help="Evaluation folders and run folders, any number of them.")],
    out: Annotated[Path, typer.Option(help="Folder for frontier.csv, frontier.png and frontier.html.")] = Path(
        "runs/frontier"
    ),
) -> None:
    """Draw quality against dollars: baselines over λ, policies over α and budgets.

    Prints the area under each method's frontier, and how much of a gap the method closes. For evaluations the gap is
    from best_constant_training to cheapest_right, for runs from best_constant_hindsight to most_competent. Each method
    is defined below the table and on the page. A policy with budgets is compared with the quality that the convex hull
    of the sweep of α reaches at the same price. Results with another measure than exact match have their own rows. The
    notes of the evaluations are repeated. The paper's rows for the same data sets are in the CSV file and on the page,
    marked as published; they are not drawn, because their candidates and prices were different.

    \b
    Examples:
      router-r1 evaluate world --lambda 0 --lambda 0.05 --lambda 0.2 --out runs/evaluations/world
      router-r1 evaluate runs/BUDGETS --budget 0.0001 --budget 0.001 --out runs/evaluations/budgets
      router-r1 frontier runs/evaluations/budgets runs/evaluations/world runs/NAME --out runs/frontier
    """
    with stoppable():
        from cluster.evaluation.frontier_points import evaluations_notes, published_beside, read_points
        from cluster.report.frontier import describe, write_frontier

        quoted, carried = published_beside(folders), evaluations_notes(folders)
        points, notes = read_points(folders)
        found = write_frontier(points, notes, out, carried=carried, quoted=quoted)
        typer.echo(describe(points, found, [*notes, *carried]))
        typer.echo(f"{len(points)} points are in {out}", err=True)
