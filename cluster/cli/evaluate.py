"""`router-r1 evaluate`: a policy and the baselines on the same questions, to one table."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from cluster.cli.output import fail, stoppable

_SAY_EVERY_S = 10.0


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            help="A run folder or checkpoint; the URL of an OpenAI-compatible endpoint; `recorded:FILE` or `world`: "
            "baselines alone."
        ),
    ],
    datasets: Annotated[
        list[str] | None,
        typer.Option(
            help="Sets (nq, hotpotqa/dev, …, `seven` for the paper's), files or world:heldout; may be repeated, or "
            "separated by commas. Those of the recipe if left out."
        ),
    ] = None,
    protocol: Annotated[
        Literal["paper", "full"],
        typer.Option(help="paper: 500 of each set, seed 42, one sample at temperature 1. full: whole sets, greedy."),
    ] = "paper",
    samples: Annotated[
        int | None, typer.Option(help="Samples at temperature 1, for pass@k and spread; with full, besides.", min=1)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Ask the first so many of each set.", min=1)] = None,
    budget: Annotated[
        list[float] | None,
        typer.Option(help="USD that an episode may cost, told to the policy; may be repeated: a row for each."),
    ] = None,
    baselines: Annotated[
        list[str] | None,
        typer.Option(
            help="all, none, or names; may be repeated, or separated by commas. direct, cot and prompt_only are played "
            "by the policy.checkpoint before training, or by the model at the URL; the others choose by replies."
        ),
    ] = None,
    lambda_: Annotated[
        list[float] | None, typer.Option("--lambda", help="Weight of cost of the baselines; may be repeated.", min=0)
    ] = None,
    embedding: Annotated[
        str,
        typer.Option(
            help="Embedding of the questions for baselines that learn: hashing, or the name or path of a "
            "sentence-transformers model."
        ),
    ] = "hashing",
    pool: Annotated[
        list[str] | None,
        typer.Option(
            help="Play with other candidates, too, beside those trained with (seen): unseen, unseen-unmeasured (their "
            "cards tell no accuracy), without:NAME, price:NAME=FACTOR; may be repeated."
        ),
    ] = None,
    against: Annotated[str | None, typer.Option(help="Row that the others are compared with.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the evaluation; runs/evaluations/… if left out.")] = None,
    recipe: Annotated[str, typer.Option(help="Recipe for what the target does not tell.")] = "quickstart",
    set_: Annotated[list[str] | None, typer.Option("--set", help="`dotted.key=value`, may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model at a URL.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds its key.")] = None,
    price_in: Annotated[float, typer.Option(help="Its USD per million tokens read.", min=0)] = 0.0,
    price_out: Annotated[float, typer.Option(help="Its USD per million tokens written.", min=0)] = 0.0,
    timeout_s: Annotated[float, typer.Option(help="Deadline for one reply of it.", min=0.1)] = 120.0,
    engines: Annotated[
        int,
        typer.Option(
            help="vLLM engines that play a checkpoint; more than one run as Ray workers, on the cluster at RAY_ADDRESS "
            "or placement.address, else on this machine.",
            min=1,
        ),
    ] = 1,
    concurrency: Annotated[int | None, typer.Option(help="Episodes under way at a time.", min=1)] = None,
    ask_everyone: Annotated[
        bool,
        typer.Option("--ask-everyone", help="Ask every candidate every question, for baselines over a live pool."),
    ] = False,
    fit_questions: Annotated[int, typer.Option(help="Training questions that everyone is asked, too.", min=1)] = 200,
    max_usd: Annotated[float, typer.Option(help="Ask for --yes where asking everyone may cost more.", min=0)] = 1.0,
    yes: Annotated[bool, typer.Option("--yes", help="Ask everyone whatever it may cost.")] = False,
    published: Annotated[
        Literal["qwen", "llama", "all", "none"], typer.Option(help="Rows of the paper to show beside, by base model.")
    ] = "qwen",
    seed: Annotated[int, typer.Option(help="Seed of the baselines, and of the split of recorded replies.")] = 0,
) -> None:
    """Evaluate a policy and the baselines on the same questions.

    Tells exact match, F1, dollars, calls, tokens and latency, by data set and hop count, with intervals and paired
    tests. Every answer is written down as it comes: the same command goes on where it was stopped, and pays for no
    call twice.

    \b
    Examples:
      router-r1 evaluate runs/NAME --datasets seven
      router-r1 evaluate runs/NAME --protocol full --samples 8 --baselines none
      router-r1 evaluate runs/NAME --budget 0.0001 --budget 0.001
      router-r1 evaluate runs/NAME --engines 8
      router-r1 evaluate runs/NAME --pool unseen --pool without:NAME --pool price:NAME=2
      router-r1 evaluate https://HOST/v1 --model NAME --api-key-env KEY --recipe router_r1_qwen3b --datasets nq
      router-r1 evaluate recorded:REPLIES.jsonl --baselines random,knn,cascade
      router-r1 evaluate world --lambda 0 --lambda 0.1
    """
    from cluster.session.logs import log_to_terminal, quiet_libraries

    quiet_libraries()
    log_to_terminal()
    where = out or "runs/evaluations"
    with stoppable(lambda: f"what was answered is in {where}; the same command goes on"):
        from cluster.evaluation.evaluate import evaluate as evaluate_target
        from cluster.evaluation.options import EvaluationOptions

        options = EvaluationOptions(
            target=target,
            datasets=_listed(datasets),
            protocol=protocol,
            samples=samples,
            limit=limit,
            budgets_usd=tuple(budget or ()),
            baselines=_listed(baselines) or ("all",),
            lambdas=tuple(lambda_ or (0.0,)),
            embedding=embedding,
            seed=seed,
            out=out,
            recipe=recipe,
            overrides=tuple(set_ or ()),
            model=model,
            api_key_env=api_key_env,
            price_in=price_in,
            price_out=price_out,
            timeout_s=timeout_s,
            engines=engines,
            concurrency=concurrency,
            ask_everyone=ask_everyone,
            fit_questions=fit_questions,
            max_usd=max_usd,
            yes=yes,
            pools=tuple(pool or ()),
            against=against,
            published=published,
        )
        with _Progress() as progress, _table_alone():
            folder = evaluate_target(options, progress.say, progress.told)
        typer.echo((folder / "table.md").read_text(encoding="utf-8"))
        typer.echo(f"items, numbers and this table are in {folder}", err=True)


def _listed(values: list[str] | None) -> tuple[str, ...]:
    """Values given one by one or separated by commas; a comma in a file's name is no separator where it exists."""
    parts = [part for value in values or () for part in ([value] if Path(value).is_file() else value.split(","))]
    if any(not part.strip() for part in parts):
        fail(f"{', '.join(values or ())}: an empty name between commas; remove it")
    return tuple(part.strip() for part in parts)


@contextlib.contextmanager
def _table_alone() -> Iterator[None]:
    """Send what engines and their processes write to standard output to standard error: the table stands alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class _Progress:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._console = Console(stderr=True)
        self._bar = Progress(console=self._console, transient=True)
        self._task = self._bar.add_task("starting", total=None)
        self._said = time.monotonic()

    def __enter__(self) -> _Progress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        typer.echo(text, err=True)

    def told(self, done: int, total: int, usd: float) -> None:
        text = f"{done} of {total}, {usd:.4f} USD"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, total=total, description=text)
        elif time.monotonic() - self._said >= _SAY_EVERY_S:
            self._said = time.monotonic()
            self.say(text)
