"""`router-r1 report`: one HTML page on a run; what it is made with is imported by the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.command import stoppable


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder (runs/NAME), finished or not.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="File to write; report.html in the run's folder if not given."),
    ] = None,
) -> None:
    """Write one HTML page on a run: result, evaluations, curves, routes, spending, trajectories, configuration.

    The page is one file that needs no network and runs no script; it can be mailed, or printed. A page that is there is
    written over, and a run that is still going on is not disturbed.

    \b
    Examples:
      router-r1 report runs/NAME
      router-r1 report runs/NAME --out report.html
    """
    with stoppable():
        from cluster.disk import RunFolderError, write_whole
        from cluster.report_page import render
        from cluster.report_run import run_page

        html = render(run_page(run))
        file = out or run / "report.html"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, html)
        except OSError as error:
            raise RunFolderError(
                f"{file}: the report can't be written ({error}); name another place by --out"
            ) from error
    typer.echo(f"{file}: {len(html.encode()) / 1024:,.0f} KiB")
