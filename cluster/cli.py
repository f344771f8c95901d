"""The command line: `router-r1`. Heavy libraries are imported by the commands that need them, not before."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cluster import ledger_cli, pool_cli, stopping
from rewards.settings import Metric, Preset

if TYPE_CHECKING:
    from cluster.config import Config

app = typer.Typer(
    name="router-r1",
    help="Trains language models that route: reinforcement learning over a pool of candidate LLMs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
world_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="The embedded world: its experts and small policy."
)
app.add_typer(world_app, name="world")
app.add_typer(pool_cli.app, name="pool")
app.add_typer(ledger_cli.app, name="ledger")

# Errors that say what to do about them: shown as one message, without a traceback.
_EXPLAINED = (
    ("actors.pool.cards", "CardError"),
    ("actors.pool.ledger_entry", "LedgerError"),
    ("actors.pool.transport", "PoolError"),
    ("actors.questions", "QuestionError"),
    ("actors.teacher", "TeacherError"),
    ("benchmarks.caller.provider", "CallerBenchError"),
    ("benchmarks.evaluation", "EvaluationError"),
    ("benchmarks.learner_memory", "MemoryBenchError"),
    ("benchmarks.suite", "UnknownBench"),
    ("benchmarks.world.process", "ServerError"),
    ("benchmarks.world_bench", "BenchError"),
    ("benchmarks.world.recorded", "RepliesError"),
    ("cluster.batch", "BudgetSpent"),
    ("cluster.batch", "RolloutError"),
    ("cluster.config", "ConfigError"),
    ("cluster.crew", "SyncError"),
    ("cluster.demonstrate", "DemonstrateError"),
    ("cluster.fleet", "CrewError"),
    ("cluster.manifest", "ResumeError"),
    ("cluster.placement", "PlacementError"),
    ("cluster.responder", "PolicyUnavailable"),
    ("actors.episode", "PromptTooLong"),
    ("cluster.run_folder", "RunFolderError"),
    ("cluster.serving", "ServingError"),
    ("cluster.submit", "SubmitError"),
    ("cluster.tracking", "TrackingError"),
    ("learner.demonstrations", "DemonstrationError"),
    ("learner.gang", "LearnerError"),
    ("learner.bad_batches", "NonFiniteError"),
)

Recipe = Annotated[str, typer.Argument(help="Name of a recipe (`router-r1 recipes`), or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="`dotted.key=value`, any number; values are YAML.", metavar="[KEY=VALUE]...")
]
RunOrCheckpoint = Annotated[
    str, typer.Argument(help="A run folder (its latest checkpoint), a checkpoint folder, or `world`.")
]
FromRecipe = Annotated[str, typer.Option(help="Recipe for what a checkpoint without a run does not tell.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="`dotted.key=value`, may be repeated.")]


def _print_keys(wanted: bool) -> None:
    if not wanted:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cluster.config import field_paths

    table = Table("key", "default", "what it is", box=None, pad_edge=False)
    for path, (default, about) in field_paths().items():
        table.add_row(path, Text(_plain(default)), Text(about))  # not markup: brackets stay
    console = Console()
    # A list to search in: a row must stay a line where nobody looks at it.
    Console(width=console.width if console.is_terminal else 240, highlight=False).print(table, markup=False)
    raise typer.Exit


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Name of a recipe (`router-r1 recipes`), or a YAML file; none with --resume.")
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the run in this folder, from its newest checkpoint; settings may be changed."),
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
    from cluster.run_folder import RunFolder
    from cluster.run_plan import plan_run

    recipe, config, going_on = plan_run(recipe, overrides or (), resume)
    if dry_run:
        _print_plan(config)
        return
    folder = RunFolder(config.run.folder / str(config.run.name))
    from cluster.logs import log_to_terminal, quiet_libraries

    quiet_libraries()
    log_to_terminal()
    with _stoppable(folder.saved):
        import cluster.loop

        cluster.loop.train(config, recipe, resume=going_on, force=force)


@app.command()
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
    from cluster.config import load_config
    from cluster.run_folder import RunFolder, default_name

    config = load_config(recipe, overrides or ())
    config = _named(config, f"sft-{default_name(recipe)}")
    folder = RunFolder(config.run.folder / str(config.run.name))
    from cluster.logs import log_to_terminal, quiet_libraries

    quiet_libraries()
    log_to_terminal()
    with _stoppable(folder.saved):
        import cluster.sft

        cluster.sft.fine_tune(config, recipe)


@app.command()
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
    from cluster.config import load_config
    from cluster.logs import log_to_terminal, quiet_libraries

    config = load_config(recipe, overrides or ())
    quiet_libraries()
    log_to_terminal()
    with _stoppable(lambda: f"what was played is in {out}; the same command goes on"):
        from cluster.demonstrate import Assignment, play_all

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


@app.command()
def recipes() -> None:
    """List the recipes that come along."""
    from rich.console import Console
    from rich.table import Table

    from cluster.config import load_config, recipe_names

    table = Table("recipe", "what it is for")
    for name in recipe_names():
        table.add_row(name, load_config(name).about)
    Console().print(table)


@app.command()
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
    from cluster.logs import log_to_terminal, quiet_libraries

    _check_policy(run_or_checkpoint)
    quiet_libraries()
    log_to_terminal()
    with _stoppable():
        import cluster.ask

        cluster.ask.ask(run_or_checkpoint, question, recipe=recipe, overrides=set_ or (), seed=seed)


@app.command()
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
    from cluster.logs import log_to_terminal, quiet_libraries

    _check_policy(run_or_checkpoint)
    quiet_libraries()
    log_to_terminal()
    with _stoppable():
        import cluster.serving

        cluster.serving.serve(run_or_checkpoint, host, port, recipe=recipe, overrides=set_ or ())


@app.command()
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
        _fail("submit needs --address URL, the cluster's dashboard, such as http://HEAD:8265")
    for note in planned.notes:
        typer.echo(f"note: {note}", err=True)
    with _stoppable():
        try:
            code = submission.submit(
                planned, address, lambda text: typer.echo(text, nl=False), forward_keys=forward_keys
            )
        except submission.FollowingStopped as stopped:
            typer.echo(f"\n{stopped}", err=True)
            raise typer.Exit(stopping.exit_code()) from None
        raise typer.Exit(code)


@app.command()
def score(
    preset: Annotated[Preset, typer.Option(help="Router-R1's published code, its text, or ours.")] = "default",
    metric: Annotated[Metric, typer.Option(help="Outcome: exact match or token F1.")] = "em",
    alpha: Annotated[float, typer.Option(help="Weight of the cost reward, in [0, 1].", min=0, max=1)] = 0.0,
    cost_scale_usd: Annotated[
        float | None, typer.Option(help="For default: USD at which the cost reward is 0; derived if left out.")
    ] = None,
) -> None:
    """Score finished episodes: JSON lines on standard input, one line for each on standard output.

    \b
    in   {"id", "response", "answers": [...], "cost"?: raw, "question"?, "models"?: [...]}
    out  {"id", "format", "violations", "em", "f1", "cost_reward", "reward", "routes"}

    The raw cost is completion tokens times USD per million of them. A line that can't be scored is told by its number
    on standard error, and the exit status is then 2, after the rest was scored.

    \b
    Example:
      router-r1 score --preset reference --metric f1 --alpha 0.6 < episodes.jsonl > scores.jsonl
    """
    import gc

    from cluster.score import score_settings, score_stream

    gc.set_threshold(100_000)  # a scored line leaves no cycles behind; looking for them takes a tenth of the time
    try:
        settings = score_settings(preset, metric, alpha, cost_scale_usd)
    except ValueError as error:
        _fail(str(error))
    try:
        with _stoppable(), os.fdopen(sys.stdin.fileno(), "rb", closefd=False) as source:
            bad = score_stream(source, sys.stdout.buffer, sys.stderr, settings)
    except BrokenPipeError:  # whoever reads has left; typer ends quietly
        raise
    except OSError as error:
        _fail(f"standard input or output failed: {error}; free space or name another file")
    if bad:
        raise typer.Exit(2)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="caller, score, startup, world, …")],
    json_: Annotated[bool, typer.Option("--json", help="Print rows as JSON.")] = False,
) -> None:
    """Measure figures against their targets.

    Prints a row per figure; exits with 1 where a target does not hold.
    """
    from benchmarks.figures import report
    from benchmarks.suite import run_bench

    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress, on standard error

    with _stoppable():
        with contextlib.redirect_stdout(sys.stderr):  # libraries print, too, and the rows should stand alone
            figures = run_bench(name)
        raise typer.Exit(report(figures, sys.stdout, as_json=json_))


@world_app.command("serve")
def world_serve(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535)] = 8900,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 0,
    replies: Annotated[
        Path | None, typer.Option(help="Serve these recorded replies of real models instead of the world's experts.")
    ] = None,
    latency_scale: Annotated[float, typer.Option(help="Factor on latencies; 0 answers at once.", min=0)] = 1.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="`NAME=RATE`, may be repeated: rate_limit, server_error, hang, refusal, …"),
    ] = None,
    fault_seed: Annotated[int, typer.Option(help="Seed of the faults.")] = 0,
) -> None:
    """Serve the candidate experts alone, until stopped."""
    from benchmarks.world.server import main as serve_candidates

    mode = ["recorded", "--replies", str(replies)] if replies else ["world", "--seed", str(seed)]
    address = ["--host", host, "--port", str(port), "--latency-scale", str(latency_scale)]
    faults = [part for rate in fault or () for part in ("--fault", rate)]
    serve_candidates([*mode, *address, *faults, "--fault-seed", str(fault_seed)])


@world_app.command("coldstart")
def world_coldstart(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")],
    steps: Annotated[int, typer.Option(help="Supervised steps.", min=1)] = 2400,
    batch_size: Annotated[int, typer.Option(help="Demonstrations per step.", min=1)] = 32,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Seed of weights and demonstrations.")] = 0,
) -> None:
    """Make the world's small cold-started policy.

    Supervised fine-tuning on demonstrations, from random weights; the package ships one made so.
    """
    from benchmarks.world.coldstart import make_checkpoint
    from cluster.logs import quiet_libraries

    quiet_libraries()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with _stoppable():
        losses = make_checkpoint(out, steps=steps, batch_size=batch_size, lr=lr, seed=seed)
    typer.echo(f"{out}: {steps} steps, loss {losses[0]:.3f} -> {losses[-1]:.3f}")


def main() -> None:
    """Entry point: explained errors exit with 2 and one message, signals with 130 or 143."""
    stopping.stop_on_sigterm()
    try:
        app()
    except Exception as error:
        messages = _explanations(error)
        if messages is None:
            raise
        _fail("\n".join(messages))


def _check_policy(run_or_checkpoint: str) -> None:
    """Tell of a wrong path at once, not after the seconds that the engine's import takes."""
    from cluster.run_folder import resolve_checkpoint_folder

    if run_or_checkpoint not in ("world", "smollm2"):
        resolve_checkpoint_folder(Path(run_or_checkpoint))


@contextlib.contextmanager
def _stoppable(saved: Callable[[], str] | None = None) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a message and the shell's exit code for them."""
    try:
        yield
    except KeyboardInterrupt:
        what = f"; {saved()}" if saved else ""
        typer.secho(f"stopped{what}", fg="yellow", err=True)
        raise typer.Exit(stopping.exit_code()) from None


def _explanations(error: BaseException) -> list[str] | None:
    """The messages of errors that explain themselves, also out of a group or a Ray task; None for any other."""
    if isinstance(error, BaseExceptionGroup):
        found = [_explanations(inner) for inner in error.exceptions]
        return None if None in found else list(dict.fromkeys(m for part in found for m in part or ()))
    # What was never imported can't have been raised.
    known = tuple(getattr(sys.modules[m], name) for m, name in _EXPLAINED if m in sys.modules)
    cause = getattr(error, "cause", None)  # of a RayTaskError, whose own text is a remote traceback
    for candidate in (cause, error):
        if isinstance(candidate, known):
            return [str(candidate)]
    return None


def _fail(message: str) -> NoReturn:
    typer.secho(f"error: {message}", fg="red", err=True)
    sys.exit(2)


def _named(config: Config, name: str) -> Config:
    """The configuration with its run named, so that whoever stops the run is told where it is."""
    if config.run.name is not None:
        return config
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})})


def _print_plan(config: Any) -> None:
    import yaml

    from cluster.placement import describe

    typer.echo(yaml.safe_dump(config.dump(), sort_keys=False, allow_unicode=True))
    typer.echo(describe(config))


def _plain(value: Any) -> str:
    if value is None:
        return "(none)"
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    main()
