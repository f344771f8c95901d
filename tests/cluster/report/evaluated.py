"""Evaluations for the tests of reports, made as they are: of a policy at a loopback endpoint, and of the world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from endpoints import Endpoints, Words, colour, write_cards

from benchmarks.baselines import contests
from cluster.evaluation.evaluate import evaluate
from cluster.evaluation.options import EvaluationOptions
from cluster.players import players as evaluation_policy

FEW = 199  # resamples
EVIL = "</pre><script>alert(1)</script><img src=//evil.example/a.png onerror=alert(1)> & $x_{"


def evaluate_world(out: Path, **changes: Any) -> Path:
    """Baselines alone, over the embedded world."""
    names = ("alone", "random", "best_constant_training", "best_utility", "knn", "cheapest_right")
    asked = {"limit": 40, "baselines": names, "lambdas": (0.0, 0.5), "out": out, "resamples": FEW} | changes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contests, "_WORLD_TRAIN", 100)
        return evaluate(EvaluationOptions("world", **asked), lambda _: None, lambda *_: None)


def chat(endpoints: Endpoints, folder: Path, **changes: Any) -> EvaluationOptions:
    """A policy over two candidates, asked about `nq`, which the paper has numbers of, and a set of ours; what is asked
    tries to break out of the page."""
    sources = []
    for name, numbers in (("nq", range(8)), ("mine", range(20, 28)), ("train", range(100, 130))):
        rows = [
            {"id": f"{name}-{n}", "dataset": name, "answers": [colour(f"thing {n}"), "R & D"],
             "question": f"what colour is thing {n} ? {EVIL if n < 100 else ''}"}
            for n in numbers
        ]  # fmt: skip
        sources.append(folder / f"{name}.jsonl")
        sources[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = tuple(map(str, sources[:2]))
    cards = write_cards(folder / "cards.yaml", endpoints.url)
    overrides = ("candidates.serve=none", f"candidates.pool.cards={cards}", f"data.train={sources[2]}",
                 f"data.eval={json.dumps(asked)}")  # fmt: skip
    options = {
        "model": "sage", "datasets": asked, "baselines": ("alone", "best_constant_training", "knn", "cheapest_right"),
        "out": folder / "out", "concurrency": 1, "price_in": 1.0, "price_out": 10.0, "ask_everyone": True,
        "fit_questions": 20, "overrides": overrides, "resamples": FEW,
    }  # fmt: skip
    return EvaluationOptions(**{"target": endpoints.url, **options, **changes})


def evaluate_chat(options: EvaluationOptions) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_policy, "load_tokenizer", lambda _: Words())  # importing transformers takes seconds
        return evaluate(options, lambda _: None, lambda *_: None)


def numbers_of(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found
