"""Items of made-up evaluations."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.evaluation.item import Item


def item(
    row: str = "policy",
    question: str = "q0",
    em: float = 1.0,
    *,
    dataset: str = "nq",
    sample: int = 0,
    f1: float | None = 0.5,
    cost_usd: float = 0.001,
    calls: Sequence[tuple[str, str]] = (("alpha", "ok"),),
    hops: int | None = 1,
    latency_s: float = 0.5,
) -> Item:
    return Item(row, dataset, question, sample, em, f1, cost_usd, tuple(calls), 10, 5, latency_s, hops, answer="x")


def made_row(row: str, seed: int, sets: dict[str, int], samples: int = 1) -> list[Item]:
    """Random scores, costs and calls."""
    rng = random.Random(f"{row}-{seed}")
    return [
        item(
            row,
            f"q{number}",
            float(rng.random() < 0.6),
            dataset=dataset,
            sample=sample,
            f1=rng.random(),
            cost_usd=rng.random() / 100,
            calls=[(rng.choice("abc"), rng.choice(["ok", "refused", "timeout"])) for _ in range(rng.randrange(4))],
            hops=1 + number % 2,
        )
        for dataset, count in sets.items()
        for number in range(count)
        for sample in range(samples)
    ]
