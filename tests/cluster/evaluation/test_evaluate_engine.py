"""`router-r1 evaluate` as a user types it, with an engine: the shipped policy on the world, and a replay."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.baselines.rows import UNTRAINED
from benchmarks.world.coldstart import CHECKPOINT

pytestmark = [pytest.mark.engine, pytest.mark.slow]

_POOLS = ("--pool", "unseen", "--pool", "unseen-unmeasured")


def evaluate(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = [
        "--limit",
        "16",
        "--baselines",
        "random,cheapest_right",
        "--protocol",
        "full",
        *_POOLS,
        "--out",
        str(out),
        *more,
    ]
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli", "evaluate", str(CHECKPOINT), *arguments, *_POOLS, *more],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_shipped_policy_is_evaluated_and_its_replay_gives_the_same_table_for_nothing(tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    done = evaluate(out)
    assert done.returncode == 0, done.stderr
    table = (out / "table.md").read_text()
    assert done.stdout.strip() == table.strip()
    assert "not known" in table  # a note says so of the pool that the shipped policy was trained with
    numbers = json.loads((out / "evaluation.json").read_text())
    policy, _, ideal = numbers["rows"]
    assert policy["questions"] == ideal["questions"] == 16
    assert policy["calls"] > 0
    assert numbers["spent_usd"] > 0
    seen, unseen, unmeasured = numbers["pools"]["rows"]
    assert [row["pool"] for row in (seen, unseen, unmeasured)] == ["seen", "unseen", "unseen-unmeasured"]
    assert seen["summary"] | {"name": "policy"} == policy
    assert seen["cheapest_right_em"] == ideal["em"]["mean"]
    assert unseen["cheapest_right_em"] == unmeasured["cheapest_right_em"]
    for row in (unseen, unmeasured):
        assert row["summary"]["questions"] == row["of_cheapest_right"]["questions"] == 16
        assert row["of_cheapest_right"]["mean"] == pytest.approx(
            row["summary"]["em"]["mean"] / row["cheapest_right_em"]
        )
        assert row["summary"]["calls"] > 0
        assert all(name.startswith("unseen-") for name in row["summary"]["call_share"])
        assert row["against_trained"]["questions"] == 16
    assert "no card of the unseen candidates states an accuracy" in table

    replay = ("candidates.pool.ledger=replay", f"candidates.pool.ledger_url={out / 'ledger.sqlite'}")
    done = evaluate(again, *(part for setting in replay for part in ("--set", setting)))
    assert done.returncode == 0, done.stderr
    assert (again / "table.md").read_text() == table
    assert json.loads((again / "evaluation.json").read_text())["spent_usd"] == 0


def test_the_weights_before_training_play_on_an_engine_of_their_own(tmp_path: Path) -> None:
    trained, out = tmp_path / "trained", tmp_path / "out"
    shutil.copytree(
        CHECKPOINT, trained
    )  # the evaluation takes the copy for other weights, so that rows can be compared
    arguments = ["--limit", "8", "--baselines", ",".join(UNTRAINED), "--protocol", "full", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "evaluate", str(trained), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    numbers = json.loads((out / "evaluation.json").read_text())
    found = {row["name"]: row for row in numbers["rows"]}
    assert list(found) == ["policy", *UNTRAINED]
    assert {row["questions"] for row in found.values()} == {8}
    played = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    items = {
        row: {item["question"]: (item["answer"], item["calls"]) for item in played if item["row"] == row}
        for row in found
    }
    assert items["prompt_only"] == items["policy"]
    assert found["prompt_only"]["calls"] > 0
    assert items["direct"] == items["cot"]
    for row in ("direct", "cot"):
        assert found[row]["calls"] == found[row]["usd_per_1k"] == 0
        assert found[row]["policy_tokens"] > 0
    assert json.loads((out / "untrained.json").read_text())["player"] == str(CHECKPOINT.resolve())
    assert f"played by {CHECKPOINT.resolve()}, the policy.checkpoint" in (out / "table.md").read_text()
