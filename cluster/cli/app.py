"""The command line: `router-r1`. Heavy libraries are imported by the commands that need them, not before."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.session.one_root import check_packages

check_packages()  # first: an import below would run the file that is in the way

from actors.errors import ExplainedError  # noqa: E402
from cluster.cli import (  # noqa: E402
    bench,
    data,
    demonstrate,
    evaluate,
    frontier,
    ledger,
    policy,
    pool,
    recipes,
    report,
    score,
    sft,
    submit,
    train,
    world,
)
from cluster.cli.output import fail  # noqa: E402
from cluster.session import stopping  # noqa: E402

app = typer.Typer(
    name="router-r1",
    help="Trains language models that route: reinforcement learning over a pool of candidate LLMs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    train.train,
    sft.sft,
    demonstrate.demonstrate,
    recipes.recipes,
    policy.ask,
    policy.serve,
    evaluate.evaluate,
    frontier.frontier,
    submit.submit,
    report.report,
    score.score,
    bench.bench,
):
    app.command()(_command)
app.add_typer(world.app, name="world")
app.add_typer(pool.app, name="pool")
app.add_typer(ledger.app, name="ledger")
app.add_typer(data.app, name="data")


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        typer.echo(f"router-r1 {version('router-r1')}")
    except PackageNotFoundError:  # run from a copy of the code, as a Ray job does
        typer.echo("router-r1, version unknown: the package is not installed here, `make setup` installs it")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options of the command line itself; its help stands at `app`."""


def main() -> None:
    """Entry point: explained errors exit with 2 and one message, signals with 130 or 143."""
    stopping.stop_on_sigterm()
    try:
        app()
    except Exception as error:
        messages = _explanations(error)
        if messages is None:
            raise
        fail("\n".join(messages))


def _explanations(error: BaseException) -> list[str] | None:
    """The messages of errors that explain themselves, also out of a group or a Ray task; None for any other."""
    if isinstance(error, BaseExceptionGroup):
        found = [_explanations(inner) for inner in error.exceptions]
        return None if None in found else list(dict.fromkeys(m for part in found for m in part or ()))
    cause = getattr(error, "cause", None)  # of a RayTaskError, whose own text is a remote traceback
    for candidate in (cause, error):
        if isinstance(candidate, ExplainedError):
            return [str(candidate)]
    return None
