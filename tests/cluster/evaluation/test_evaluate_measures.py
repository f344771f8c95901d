"""Measures of an evaluation: each row has its own, and rows are compared by a measure that both have."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from endpoints import Endpoints
from evaluations import chat, numbers, run

from cluster.runs.files import RunFolderError

pytestmark = pytest.mark.thorough


def test_judged_replies_are_not_compared_by_exact_match_and_their_baselines_keep_to_them(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    path = tmp_path / "replies.jsonl"

    def record(right: bool) -> None:
        rows = [
            {"id": f"t{n}", "dataset": "things", "question": f"what colour is thing {n} ?", "model": model,
             "response": "it may be red", "correct": right and model == "BingChat"}
            for n in range(30) for model in ("GPT-3.5", "BingChat")
        ]  # fmt: skip
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    record(right=True)
    options = chat(endpoints, tmp_path, 8, baselines=("alone",))
    served = ("candidates.serve=recorded", f"candidates.replies={path}")
    of_data = tuple(each for each in options.overrides if each.startswith("data."))
    options = dataclasses.replace(options, overrides=(*served, *of_data))
    out, _ = run(options)
    found = {name: (row["measure"], row["em_all"]) for name, row in numbers(out).items()}
    assert found == {  # the policy always answers "red", which is right for every fourth thing
        "policy": ("exact match", 0.25), "alone:GPT-3.5": ("judged", 0.0), "alone:BingChat": ("judged", 1.0),
    }  # fmt: skip
    # The file has no accepted answers, so the policy and the replies have no common measure.
    assert json.loads((out / "evaluation.json").read_text())["against"] == {}
    record(right=False)
    with pytest.raises(RunFolderError, match=r"baselines of another making \(replies was "):
        run(options)
