"""`router-r1 train`: trains a policy by a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.evaluation.tables import Table, text_columns
from cluster.cli.arguments import Overrides
from cluster.cli.output import print_table, stoppable

if TYPE_CHECKING:
    pass


def _print_keys(wanted: bool) -> None:
    if not wanted:
        return
    from cluster.config.loading import field_paths

    rows = [[path, _plain(default), about] for path, (default, about) in field_paths().items()]
    print_table(Table("", text_columns("key", "default", "what it is"), rows), framed=False)
    raise typer.Exit


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Name of a recipe (`router-r1 recipes`), or a YAML file; none with --resume.")
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Continue the run in this folder, or at the URL of its mirror, from its newest checkpoint; "
            "settings may be changed.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Continue even with settings that change the course of learning.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved configuration and the placement, but train nothing.")
    ] = False,
    keys: Annotated[
        bool,
        typer.Option(
            "--keys", help="List every key with its default and meaning.", is_eager=True, callback=_print_keys
        ),
    ] = False,
) -> None:
    """Train a routing policy by a recipe.

    A recipe is a YAML file of sections, each with fields; any field may be set on the command line, too.

    \b
    Sections:
      run         length, batch, evaluation, folder
      policy      the checkpoint to start from, and how it is sampled
      engine      the vLLM engines
      episode     the rules of an episode
      candidates  the candidate LLMs: cards, limits, local server
      data        questions to train and to evaluate on
      rewards     preset, alpha (how much cost counts), metric
      learner     optimizer, loss, ZeRO stage, ranks
      sft         demonstrations and rate of `router-r1 sft`
      placement   what runs where on the Ray cluster
      tracking    Weights & Biases

    \b
    Examples:
      router-r1 train quickstart
      router-r1 train quickstart rewards.alpha=0.6 run.steps=20
      router-r1 train quickstart 'data.train=[world:train, my_questions.jsonl]'
      router-r1 train runs/NAME/config.yaml run.name=again
      router-r1 train --resume runs/NAME
      router-r1 train --resume runs/NAME run.steps=200
      router-r1 train router_r1_qwen3b --dry-run
      router-r1 train --keys | grep lr
    """
    from cluster.runs.folder import RunFolder
    from cluster.training.plan import plan_run

    with stoppable():
        recipe, config, going_on = plan_run(recipe, overrides or (), resume, look_only=dry_run)
    if dry_run:
        _print_plan(config)
        return
    folder = RunFolder(config.run.folder / str(config.run.name))
    from cluster.session.logs import log_to_terminal, quiet_libraries

    quiet_libraries()
    log_to_terminal()
    with stoppable(folder.saved):
        import cluster.training.loop

        cluster.training.loop.train(config, recipe, resume=going_on, force=force)


def _print_plan(config: Any) -> None:
    import yaml

    from cluster.workers.placement import describe

    typer.echo(yaml.safe_dump(config.dump(), sort_keys=False, allow_unicode=True))
    typer.echo(describe(config))


def _plain(value: Any) -> str:
    if value is None:
        return "(none)"
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, tuple) else str(value)
