"""`router-r1 score`: rewards of finished episodes, from JSON lines to JSON lines."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from cluster.cli.output import fail, stoppable
from rewards.settings import Metric, Preset


def score(
    preset: Annotated[Preset, typer.Option(help="Router-R1's published code, its text, or ours.")] = "default",
    metric: Annotated[Metric, typer.Option(help="Outcome: exact match or token F1.")] = "em",
    alpha: Annotated[float, typer.Option(help="Weight of the cost reward, in [0, 1].", min=0, max=1)] = 0.0,
    cost_scale_usd: Annotated[
        float | None,
        typer.Option(help="For the preset default: USD at which the cost reward is 0; derived if not given."),
    ] = None,
) -> None:
    """Score finished episodes: JSON lines on standard input, one line for each on standard output.

    \b
    in   {"id", "response", "answers": [...], "cost"?: raw, "question"?, "models"?: [...]}
    out  {"id", "format", "violations", "em", "f1", "cost_reward", "reward", "routes"}

    The raw cost is completion tokens times USD per million completion tokens. The number of a line that can't be scored
    is printed on standard error; the other lines are scored, and the exit status is 2.

    \b
    Example:
      router-r1 score --preset reference --metric f1 --alpha 0.6 < episodes.jsonl > scores.jsonl
    """
    import gc

    from cluster.score import score_settings, score_stream

    gc.set_threshold(100_000)  # scoring leaves no reference cycles, and the search for them takes a tenth of the time
    try:
        settings = score_settings(preset, metric, alpha, cost_scale_usd)
    except ValueError as error:
        fail(str(error))
    if sys.stdin is None or sys.stdout is None:
        fail("standard input or output is closed; name a file, as in `router-r1 score < episodes.jsonl > scores.jsonl`")
    try:
        with stoppable(), os.fdopen(sys.stdin.fileno(), "rb", closefd=False) as source:
            bad = score_stream(source, sys.stdout.buffer, sys.stderr, settings)
    except BrokenPipeError:  # the reader has closed the pipe; typer ends quietly
        raise
    except OSError as error:
        fail(f"standard input or output failed: {error}; free space or name another file")
    if bad:
        raise typer.Exit(2)
