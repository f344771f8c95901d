"""`router-r1 score`: rewards of finished episodes, JSON lines in and out."""

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
