"""Evaluations of a policy whose model does not take a prompt: that is its own failure, and counts as wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from endpoints import Endpoints
from evaluations import chat, lines, numbers, run

from cluster.evaluation_assignment import EvaluateError


def test_what_the_policys_model_does_not_take_it_has_got_wrong(endpoints: Endpoints, tmp_path: Path) -> None:
    endpoints.not_taken = {"thing 0", "thing 3"}
    out, _ = run(chat(endpoints, tmp_path, 10, concurrency=1))
    found = {row["question"]: row for row in lines(out)}
    assert {name for name, row in found.items() if row["stop"] == "not_taken"} == {"t0", "t3"}
    assert all(found[name]["em"] == found[name]["cost_usd"] == 0 for name in ("t0", "t3"))
    row = numbers(out)["policy"]
    assert (row["questions"], row["lost"]) == (10, 0)
    assert "against the rules" in (out / "failures.jsonl").read_text()
    before = dict(endpoints.asked)
    run(chat(endpoints, tmp_path, 10))
    assert dict(endpoints.asked) == before

    endpoints.not_taken = {f"thing {n}" for n in range(20)}
    with pytest.raises(EvaluateError, match=r"8 episodes in a row failed, .*against the rules"):
        run(chat(endpoints, tmp_path, 10, out=tmp_path / "none"))
    assert not (tmp_path / "none" / "items.jsonl").exists()  # nothing of it is believed
    out, _ = run(chat(endpoints, tmp_path, 3, out=tmp_path / "three"))
    assert (numbers(out)["policy"]["questions"], numbers(out)["policy"]["em_all"]) == (3, 0)
