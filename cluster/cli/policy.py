"""`router-r1 ask` and `serve`: a trained policy answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.output import stoppable

RunOrCheckpoint = Annotated[
    str, typer.Argument(help="A run folder (its latest checkpoint), a checkpoint folder, or `world`.")
]
FromRecipe = Annotated[str, typer.Option(help="Recipe for the settings that a checkpoint without a run lacks.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="`dotted.key=value`, may be repeated.")]


def ask(
    run_or_checkpoint: RunOrCheckpoint,
    question: Annotated[str, typer.Argument(help="The question, in quotes.")],
    recipe: FromRecipe = "quickstart",
    set_: Set = None,
    seed: Annotated[int, typer.Option(help="Seed of the menu.")] = 0,
) -> None:
    """Ask a trained policy a question.

    Prints its thoughts, its routes with model, cost and latency, and the answer, as they happen.
    """
    from cluster.session.logs import log_to_terminal, quiet_libraries

    _check_policy(run_or_checkpoint)
    quiet_libraries()
    log_to_terminal()
    with stoppable():
        import cluster.serving.ask

        cluster.serving.ask.ask(run_or_checkpoint, question, recipe=recipe, overrides=set_ or (), seed=seed)


def serve(
    run_or_checkpoint: RunOrCheckpoint,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every interface.")] = "127.0.0.1",
    recipe: FromRecipe = "quickstart",
    set_: Set = None,
) -> None:
    """Serve a trained policy over HTTP.

    POST /v1/chat/completions (OpenAI's format), GET /v1/models and GET /healthz, until it is stopped.
    """
    from cluster.session.logs import log_to_terminal, quiet_libraries

    _check_policy(run_or_checkpoint)
    quiet_libraries()
    log_to_terminal()
    with stoppable():
        import cluster.serving.deployment

        cluster.serving.deployment.serve(run_or_checkpoint, host, port, recipe=recipe, overrides=set_ or ())


def _check_policy(run_or_checkpoint: str) -> None:
    """Report a wrong path at once, before the import of the engine, which takes seconds."""
    from cluster.runs.checkpoint_folder import resolve_checkpoint_folder
    from cluster.runs.policy_checkpoints import NAMED

    if run_or_checkpoint not in NAMED:
        resolve_checkpoint_folder(Path(run_or_checkpoint))
