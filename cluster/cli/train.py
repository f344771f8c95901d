"""`router-r1 train`, `sft`, `demonstrate`, `submit` and `recipes`: what makes a policy, from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.output import fail, stoppable
from cluster.session import stopping

if TYPE_CHECKING:
    from cluster.config.settings import Config

Recipe = Annotated[str, typer.Argument(help="Name of a recipe (`router-r1 recipes`), or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="`dotted.key=value`, any number; values are YAML.", metavar="[KEY=VALUE]...")
]


def _print_keys(wanted: bool) -> None:
    if not wanted:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cluster.config.loading import field_paths

    table = Table("key", "default", "what it is", box=None, pad_edge=False)
    for path, (default, about) in field_paths().items():
        table.add_row(path, Text(_plain(default)), Text(about))  # not markup: brackets stay
    console = Console()
    # A list to search in: a row must stay a line where nobody looks at it.
    Console(width=console.width if console.is_terminal else 240, highlight=False).print(table, markup=False)
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
            help="Go on with the run in this folder, or at the URL of its mirror, from its newest checkpoint; "
            "settings may be changed.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on even with settings that change the course of learning.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved configuration and the placement, train nothing.")
    ] = False,
    keys: Annotated[
        bool,
        typer.Option(
            "--keys", help="List every key with its default and meaning.", is_eager=True, callback=_print_keys
        ),
    ] = False,
) -> None:
    """Train a routing policy, after a recipe.

    A recipe is a YAML file of sections, each with fields; any field may be set on the command line, too.

    \b
    Sections:
      run         length, batch, evaluation, where it is kept
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


def sft(recipe: Recipe, overrides: Overrides = None) -> None:
    """Fine-tune a policy on demonstrations, before reinforcement: the cold start.

    Takes a recipe as `train` does; `sft` is its section, and policy, learner, placement and tracking count, too.
    The loss is taken on the policy's own words only. Makes a run folder whose checkpoint `train` starts from.

    \b
    Examples:
      router-r1 sft quickstart sft.demonstrations=demos.jsonl sft.lr=2e-4
      router-r1 sft router_r1_qwen3b 'sft.demonstrations=[a.jsonl, b.jsonl]' sft.epochs=3
      router-r1 train router_r1_qwen3b policy.checkpoint=runs/NAME/checkpoints/step_000042
    """
    from cluster.config.loading import load_config
    from cluster.runs.folder import RunFolder, default_name

    config = load_config(recipe, overrides or ())
    config = _named(config, f"sft-{default_name(recipe)}")
    folder = RunFolder(config.run.folder / str(config.run.name))
    from cluster.session.logs import log_to_terminal, quiet_libraries

    quiet_libraries()
    log_to_terminal()
    with stoppable(folder.saved):
        import cluster.training.sft

        cluster.training.sft.fine_tune(config, recipe)


def demonstrate(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    teacher: Annotated[
        str, typer.Option(help="Base URL of an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1.")
    ],
    model: Annotated[str, typer.Option(help="Name of the teacher at that endpoint.")],
    out: Annotated[Path, typer.Option(help="JSONL file to append demonstrations to.")],
    episodes: Annotated[int, typer.Option(help="Episodes to play, in all.", min=1)] = 100,
    min_reward: Annotated[float, typer.Option(help="Keep episodes of this reward or more.")] = 0.5,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds the teacher's key.")] = None,
    concurrency: Annotated[int, typer.Option(help="Episodes under way at a time.", min=1)] = 16,
    timeout_s: Annotated[float, typer.Option(help="Deadline for one reply of the teacher.", min=0.1)] = 120.0,
    price_in: Annotated[float, typer.Option(help="Teacher's USD per million tokens read.", min=0)] = 0.0,
    price_out: Annotated[float, typer.Option(help="Teacher's USD per million tokens written.", min=0)] = 0.0,
) -> None:
    """Let another model play the policy, and keep what scores well as demonstrations.

    The teacher plays the episodes of training: the recipe's questions, rules, candidates and reward. What it played
    is remembered beside the file, so that the same command goes on where it was stopped.

    \b
    Examples:
      router-r1 demonstrate router_r1_qwen3b --teacher https://HOST/v1 --model NAME \\
        --api-key-env TEACHER_API_KEY --out demos.jsonl --episodes 500
      router-r1 demonstrate quickstart policy.sampling.temperature=0.7 --teacher http://127.0.0.1:8000/v1 \\
        --model NAME --out demos.jsonl
    """
    from cluster.config.loading import load_config
    from cluster.session.logs import log_to_terminal, quiet_libraries

    config = load_config(recipe, overrides or ())
    quiet_libraries()
    log_to_terminal()
    with stoppable(lambda: f"what was played is in {out}; the same command goes on"):
        from cluster.evaluation.demonstrate import Assignment, play_all

        assignment = Assignment(
            teacher=teacher,
            model=model,
            out=out,
            episodes=episodes,
            min_reward=min_reward,
            api_key_env=api_key_env,
            concurrency=concurrency,
            timeout_s=timeout_s,
            price_in=price_in,
            price_out=price_out,
        )
        play_all(config, assignment, lambda text: typer.echo(text, err=True))


def recipes() -> None:
    """List the recipes that come along."""
    from rich.console import Console
    from rich.table import Table

    from cluster.config.loading import load_config, recipe_names

    table = Table("recipe", "what it is for")
    for name in recipe_names():
        table.add_row(name, load_config(name).about)
    Console().print(table)


def submit(
    recipe: Recipe,
    overrides: Overrides = None,
    address: Annotated[str, typer.Option(help="URL of the cluster's dashboard, such as http://HEAD:8265.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be submitted, submit nothing.")] = False,
    forward_keys: Annotated[
        bool, typer.Option(help="Hand on WANDB_API_KEY and the cards' keys; the cluster's dashboard shows them.")
    ] = True,
) -> None:
    """Submit a training run as a Ray job.

    Follows its log and exits with its exit status. The code and the local files that the recipe names travel
    with the job. `run.folder` should be an absolute path on storage that outlives it.
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


def _named(config: Config, name: str) -> Config:
    """The configuration with its run named, so that whoever stops the run is told where it is."""
    if config.run.name is not None:
        return config
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})})


def _print_plan(config: Any) -> None:
    import yaml

    from cluster.workers.placement import describe

    typer.echo(yaml.safe_dump(config.dump(), sort_keys=False, allow_unicode=True))
    typer.echo(describe(config))


def _plain(value: Any) -> str:
    if value is None:
        return "(none)"
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, tuple) else str(value)
