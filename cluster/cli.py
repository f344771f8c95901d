"""The command line: `router-r1`. Heavy libraries are imported by the commands that need them, not before."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Annotated

import typer

from cluster.one_root import check_packages

check_packages()  # first: an import below would run the file that is in the way

from cluster import (  # noqa: E402
    data_cli,
    evaluate_cli,
    frontier_cli,
    ledger_cli,
    policy_cli,
    pool_cli,
    report_cli,
    stopping,
    train_cli,
    world_cli,
)
from cluster.command import fail, stoppable  # noqa: E402
from rewards.settings import Metric, Preset  # noqa: E402

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
    train_cli.train,
    train_cli.sft,
    train_cli.demonstrate,
    train_cli.recipes,
    policy_cli.ask,
    policy_cli.serve,
    evaluate_cli.evaluate,
    frontier_cli.frontier,
    train_cli.submit,
    report_cli.report,
):
    app.command()(_command)
app.add_typer(world_cli.app, name="world")
app.add_typer(pool_cli.app, name="pool")
app.add_typer(ledger_cli.app, name="ledger")
app.add_typer(data_cli.app, name="data")

# Errors that say what to do about them: shown as one message, without a traceback.
_EXPLAINED = (
    ("actors.policy_engine", "EngineLate"),
    ("actors.policy_engine", "EngineLost"),
    ("actors.pool.cards", "CardError"),
    ("actors.pool.ledger_entry", "LedgerError"),
    ("actors.pool.transport", "PoolError"),
    ("actors.questions", "QuestionError"),
    ("actors.teacher", "TeacherError"),
    ("benchmarks.baselines.router", "RouterError"),
    ("benchmarks.caller.provider", "CallerBenchError"),
    ("benchmarks.evaluation", "EvaluationError"),
    ("benchmarks.frontier", "FrontierError"),
    ("benchmarks.learner_memory", "MemoryBenchError"),
    ("benchmarks.reply_table", "ReplyTableError"),
    ("benchmarks.statistics", "StatisticsError"),
    ("cluster.suite", "UnknownBench"),
    ("benchmarks.world.process", "ServerError"),
    ("benchmarks.world_bench", "BenchError"),
    ("benchmarks.world.recorded", "RepliesError"),
    ("cluster.batch", "BudgetSpent"),
    ("cluster.batch", "RolloutError"),
    ("cluster.config", "ConfigError"),
    ("cluster.crew", "SyncError"),
    ("cluster.demonstrate", "DemonstrateError"),
    ("cluster.evaluation_assignment", "EvaluateError"),
    ("cluster.fleet", "CrewError"),
    ("cluster.manifest", "ResumeError"),
    ("cluster.mirror", "MirrorError"),
    ("cluster.placement", "PlacementError"),
    ("cluster.responder", "PolicyUnavailable"),
    ("actors.episode", "PromptTooLong"),
    ("cluster.disk", "RunFolderError"),
    ("cluster.run_id", "RunIdError"),
    ("cluster.serving", "ServingError"),
    ("cluster.submit", "SubmitError"),
    ("cluster.tracking", "TrackingError"),
    ("learner.demonstrations", "DemonstrationError"),
    ("learner.gang", "LearnerError"),
    ("learner.bad_batches", "NonFiniteError"),
)


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
        fail(str(error))
    if sys.stdin is None or sys.stdout is None:
        fail("standard input or output is closed; name a file, as in `router-r1 score < episodes.jsonl > scores.jsonl`")
    try:
        with stoppable(), os.fdopen(sys.stdin.fileno(), "rb", closefd=False) as source:
            bad = score_stream(source, sys.stdout.buffer, sys.stderr, settings)
    except BrokenPipeError:  # whoever reads has left; typer ends quietly
        raise
    except OSError as error:
        fail(f"standard input or output failed: {error}; free space or name another file")
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
    from cluster.suite import run_bench

    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress, on standard error

    with stoppable():
        with contextlib.redirect_stdout(sys.stderr):  # libraries print, too, and the rows should stand alone
            figures = run_bench(name)
        raise typer.Exit(report(figures, sys.stdout, as_json=json_))


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
    # What was never imported can't have been raised.
    known = tuple(getattr(sys.modules[m], name) for m, name in _EXPLAINED if m in sys.modules)
    cause = getattr(error, "cause", None)  # of a RayTaskError, whose own text is a remote traceback
    for candidate in (cause, error):
        if isinstance(candidate, known):
            return [str(candidate)]
    return None


if __name__ == "__main__":
    main()
