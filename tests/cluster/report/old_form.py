"""Runs and evaluations in the form from before each method had one name, for tests that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROWS = {"cheapest_right": "oracle", "best_constant_training": "best_constant"}
RESULTS = {"most_competent": "oracle", "best_constant_hindsight": "best_single"}
POOL_FIELDS = {
    "cheapest_right_em": "oracle",
    "cheapest_right_usd_per_1k": "oracle_usd_per_1k",
    "of_cheapest_right": "of_oracle",
    "best_constant_training": "best_single",
    "best_constant_training_em": "best_single_em",
    "best_constant_training_usd_per_1k": "best_single_usd_per_1k",
    "against_best_constant_training": "against_best_single",
}


def age_evaluation(folder: Path) -> Path:
    """Put the old names into the files of an evaluation."""
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = (json.dumps({**item, "row": _row(item["row"])}, ensure_ascii=False) + "\n" for item in items)
    (folder / "items.jsonl").write_text("".join(lines), encoding="utf-8")
    file = folder / "evaluation.json"
    numbers = json.loads(file.read_text(encoding="utf-8"))
    del numbers["methods"]
    for row in numbers["rows"]:
        row["name"] = _row(row["name"])
    for compared in numbers["against"].values():
        compared["reference"] = _row(compared["reference"])
    numbers["against"] = {_row(name): compared for name, compared in numbers["against"].items()}
    if "pools" in numbers:
        numbers["pools"]["rows"] = [
            {POOL_FIELDS.get(key, key): value for key, value in row.items()} for row in numbers["pools"]["rows"]
        ]
    file.write_text(json.dumps(numbers), encoding="utf-8")
    return folder


def age_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """A run's summary with the old names."""
    named = {f"{new}{end}": f"{old}{end}" for new, old in RESULTS.items() for end in ("", "_unseen")}
    return {named.get(key, key): value for key, value in summary.items() if key != "methods"}


def _row(name: str) -> str:
    method, at, pool = name.partition(" @ ")
    return f"{ROWS.get(method, method)}{at}{pool}"
