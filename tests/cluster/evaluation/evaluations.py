"""Evaluations for tests: run with few resamples, and read back."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

from endpoints import Endpoints, write_cards, write_questions

from cluster.evaluation.evaluate import evaluate
from cluster.evaluation.options import EvaluationOptions

FEW = 199  # resamples


def run(options: EvaluationOptions) -> tuple[Path, list[str]]:
    said: list[str] = []
    return evaluate(dataclasses.replace(options, resamples=FEW), said.append, lambda *_: None), said


def numbers(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of an evaluation, by name."""
    return {row["name"]: row for row in json.loads((folder / "evaluation.json").read_text())["rows"]}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


def check_unique(folder: Path) -> None:
    keys = Counter((row["row"], row["dataset"], row["question"], row["sample"]) for row in lines(folder))
    assert keys
    assert set(keys.values()) == {1}


def chat(endpoints: Endpoints, tmp_path: Path, count: int = 10, **changes: Any) -> EvaluationOptions:
    """An evaluation of `sage` over both candidates."""
    train = write_questions(tmp_path / "train.jsonl", range(100, 130))
    asked = write_questions(tmp_path / "asked.jsonl", range(count))
    return EvaluationOptions(
        **{
            "target": endpoints.url,
            "model": "sage",
            "datasets": (asked,),
            "baselines": ("none",),
            "out": tmp_path / "out",
            "concurrency": 2,
            "price_in": 1.0,
            "price_out": 10.0,
            "overrides": (
                "candidates.serve=none",
                f"candidates.pool.cards={write_cards(tmp_path / 'cards.yaml', endpoints.url)}",
                f"data.train={train}",
                f"data.eval={asked}",
            ),
        }
        | changes
    )
