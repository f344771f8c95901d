"""`router-r1 report`: one HTML page on a run or an evaluation; what it is made with is imported by the command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.output import stoppable

if TYPE_CHECKING:
    from cluster.report.page import Page


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_EVALUATION",
            help="A run folder (runs/NAME), finished or not, or the folder of a finished evaluation "
            "(runs/evaluations/NAME).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="File to write; report.html in that folder if not given."),
    ] = None,
) -> None:
    """Write one HTML page on a run or an evaluation.

    Of a run: result, its evaluations, curves, routes, spending, trajectories, configuration. Of an evaluation: is the
    policy better than the alternatives, at what price, and is the difference real; all rows with intervals and tests,
    the paper's beside them, the frontier, calls, candidates, spending, whole questions.

    The page is one file that needs no network and runs no script; it can be mailed, or printed. A page that is there is
    written over, and whatever is still going on is not disturbed.

    \b
    Examples:
      router-r1 report runs/NAME
      router-r1 report runs/evaluations/NAME --out report.html
    """
    with stoppable():
        from actors.whole_files import write_whole
        from cluster.report.page import render
        from cluster.runs.files import RunFolderError

        html = render(_page(folder))
        file = out or folder / "report.html"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, html)
        except OSError as error:
            raise RunFolderError(
                f"{file}: the report can't be written ({error}); name another place by --out"
            ) from error
    typer.echo(f"{file}: {len(html.encode()) / 1024:,.0f} KiB")


def _page(folder: Path) -> Page:
    from cluster.evaluation.record import is_evaluation
    from cluster.runs.files import RunFolderError
    from cluster.runs.folder import RunFolder

    if is_evaluation(folder):
        from cluster.report.evaluation_page import evaluation_page

        return evaluation_page(folder)
    if folder.is_dir() and not RunFolder(folder).config_file.is_file():
        raise RunFolderError(
            f"{folder}: holds neither config.yaml nor asked.json, so it is neither a run nor an evaluation; give the "
            "folder of one (runs/NAME, runs/evaluations/NAME)"
        )
    from cluster.report.run_page import run_page

    return run_page(folder)
