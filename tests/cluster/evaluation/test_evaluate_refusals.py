"""Evaluations of a policy whose model refuses a prompt: this is the policy's failure, and counts as wrong."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from endpoints import Endpoints
from evaluations import chat, lines, numbers, run

from cluster.evaluation.options import EvaluateError
from cluster.runs.files import RunFolderError

pytestmark = pytest.mark.thorough


def test_what_the_policys_model_does_not_take_it_has_got_wrong(endpoints: Endpoints, tmp_path: Path) -> None:
    endpoints.not_taken = {"thing 0", "thing 3"}
    out, _ = run(chat(endpoints, tmp_path, 10, concurrency=1))
    found = {row["question"]: row for row in lines(out)}
    assert {name for name, row in found.items() if row["stop"] == "not_taken"} == {"t0", "t3"}
    assert all(found[name]["em"] == found[name]["cost_usd"] == 0 for name in ("t0", "t3"))
    row = numbers(out)["policy"]
    assert (row["questions"], row["lost"]) == (10, 0)
    assert "against the rules" in (out / "failures.jsonl").read_text()
    note = r"Note: policy: 2 of 10 episodes ended at a prompt .*'t0': .*HTTP 400: .*against the rules"
    assert re.search(note, (out / "table.md").read_text())
    before = dict(endpoints.asked)
    run(chat(endpoints, tmp_path, 10))
    assert dict(endpoints.asked) == before

    endpoints.not_taken = {f"thing {n}" for n in range(20)}
    with pytest.raises(EvaluateError, match=r"8 episodes in a row failed, .*against the rules"):
        run(chat(endpoints, tmp_path, 10, out=tmp_path / "none"))
    assert not (tmp_path / "none" / "items.jsonl").exists()  # no refusal is counted as wrong
    out, _ = run(chat(endpoints, tmp_path, 3, out=tmp_path / "three"))
    assert (numbers(out)["policy"]["questions"], numbers(out)["policy"]["em_all"]) == (3, 0)


def test_what_a_refused_conversation_had_cost_is_counted(endpoints: Endpoints, tmp_path: Path) -> None:
    endpoints.too_long = 3  # the reply's message
    out, _ = run(chat(endpoints, tmp_path, 6))
    row = numbers(out)["policy"]
    assert (row["em_all"], row["unanswered"], row["calls"], row["questions"], row["lost"]) == (0.0, 1.0, 1.0, 6, 0)
    assert row["policy_usd_per_1k"] == pytest.approx(1000 * (100 * 1 + 10 * 10) / 1e6)
    assert row["policy_tokens"] > 0
    spent = json.loads((out / "evaluation.json").read_text())["spent_usd"]
    assert spent == pytest.approx(sum(item["cost_usd"] for item in lines(out)))
    assert spent > 0


def test_a_prompt_that_the_policy_has_no_room_for_is_wrong(endpoints: Endpoints, tmp_path: Path) -> None:
    options = chat(endpoints, tmp_path, 3)
    out, _ = run(dataclasses.replace(options, overrides=(*options.overrides, "engine.max_model_len=8")))
    row = numbers(out)["policy"]
    assert (row["em_all"], row["unanswered"], row["lost"]) == (0.0, 1.0, 0)
    assert "raise engine.max_model_len" in (out / "table.md").read_text()
    with pytest.raises(RunFolderError, match=r"another evaluation .*max_model_len"):
        run(options)
