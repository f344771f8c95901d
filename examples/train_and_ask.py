"""Trains a small policy for a few steps in the embedded world, asks it a question, and judges what it did.

    python examples/train_and_ask.py
    python examples/train_and_ask.py run.steps=44 run.groups_per_step=24 run.group_size=8

Overrides are those of `router-r1 train`. The first takes about a minute on two cores and learns next to nothing; the
second is a whole run.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import router_r1

FEW = ["run.steps=3", "run.groups_per_step=8", "run.group_size=4", "data.eval_questions=24"]


async def ask(run: Path, question: router_r1.Question) -> router_r1.Trajectory:
    """Start the run's policy, and ask it one question."""
    async with router_r1.open_policy(run) as policy:
        return await policy.respond(router_r1.Ask(question.text))


def main(overrides: list[str]) -> None:
    """Train, ask and judge."""
    run = router_r1.train("quickstart", [*FEW, *overrides])  # later overrides win
    [question] = router_r1.load_questions("world:heldout", limit=1)
    transcript = asyncio.run(ask(run, question)).transcript

    for call in transcript.calls:
        print(f"{call.model} was asked {call.query!r} and said {call.reply!r} for {call.cost_usd:.6f} USD")
    reward = router_r1.Judge(router_r1.load_config(str(run / "config.yaml")).rewards).judge(
        transcript, question.answers
    )
    print(f"{question.text} {transcript.answer} (accepted: {', '.join(question.answers)}); reward {reward.total:.3f}")


if __name__ == "__main__":  # engines are processes of their own, which import this file
    main(sys.argv[1:])
