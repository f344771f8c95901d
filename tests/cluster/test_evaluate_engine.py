"""`router-r1 evaluate` as a user types it, with an engine: the shipped policy on the world, and the same replayed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.world.coldstart import CHECKPOINT

pytestmark = pytest.mark.engine

_POOLS = ("--pool", "unseen", "--pool", "unseen-unmeasured")


def evaluate(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = [
        "--limit",
        "16",
        "--baselines",
        "random,oracle",
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
    assert "not known" in table  # which pool the shipped policy was trained with
    numbers = json.loads((out / "evaluation.json").read_text())
    policy, _, oracle = numbers["rows"]
    assert policy["questions"] == oracle["questions"] == 16
    assert policy["calls"] > 0
    assert numbers["spent_usd"] > 0
    seen, unseen, unmeasured = numbers["pools"]["rows"]
    assert [row["pool"] for row in (seen, unseen, unmeasured)] == ["seen", "unseen", "unseen-unmeasured"]
    assert seen["summary"] | {"name": "policy"} == policy
    assert seen["oracle"] == oracle["em"]["mean"]
    assert unseen["oracle"] == unmeasured["oracle"]
    for row in (unseen, unmeasured):
        assert row["summary"]["questions"] == row["of_oracle"]["questions"] == 16
        assert row["of_oracle"]["mean"] == pytest.approx(row["summary"]["em"]["mean"] / row["oracle"])
        assert row["summary"]["calls"] > 0
        assert all(name.startswith("unseen-") for name in row["summary"]["call_share"])
        assert row["against_trained"]["questions"] == 16
    assert "no card of the unseen candidates tells a measured accuracy" in table

    replay = ("candidates.pool.ledger=replay", f"candidates.pool.ledger_url={out / 'ledger.sqlite'}")
    done = evaluate(again, *(part for setting in replay for part in ("--set", setting)))
    assert done.returncode == 0, done.stderr
    assert (again / "table.md").read_text() == table
    assert json.loads((again / "evaluation.json").read_text())["spent_usd"] == 0
