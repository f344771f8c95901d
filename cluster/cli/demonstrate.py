"""`router-r1 demonstrate`: another model plays the policy, and its good episodes are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.arguments import Overrides, Recipe
from cluster.cli.output import stoppable


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
        from cluster.evaluation.demonstrate import DemonstrationOptions, make_demonstrations

        options = DemonstrationOptions(
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
        make_demonstrations(config, options, lambda text: typer.echo(text, err=True))
