"""`router-r1 submit`: a training run as a Ray job."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.arguments import Overrides, Recipe
from cluster.cli.output import fail, stoppable
from cluster.session import stopping


def submit(
    recipe: Recipe,
    overrides: Overrides = None,
    address: Annotated[str, typer.Option(help="URL of the cluster's dashboard, such as http://HEAD:8265.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be submitted, but submit nothing.")
    ] = False,
    forward_keys: Annotated[
        bool, typer.Option(help="Send WANDB_API_KEY and the cards' keys, too; the cluster's dashboard shows them.")
    ] = True,
) -> None:
    """Submit a training run as a Ray job.

    Prints the job's log and exits with its exit status. The code, and the local files that the recipe names, are sent
    with the job. `run.folder` should be an absolute path on storage that outlives the job.
    """
    import cluster.submit as submission

    planned = submission.plan(recipe, overrides or ())
    if dry_run:
        typer.echo(planned.describe())
        return
    if not address:
        fail("submit needs --address URL, the cluster's dashboard, such as http://HEAD:8265")
    for note in planned.notes:
        typer.echo(f"note: {note}", err=True)
    with stoppable():
        try:
            code = submission.submit(
                planned, address, lambda text: typer.echo(text, nl=False), forward_keys=forward_keys
            )
        except submission.FollowingStopped as stopped:
            typer.echo(f"\n{stopped}", err=True)
            raise typer.Exit(stopping.exit_code()) from None
        raise typer.Exit(code)
