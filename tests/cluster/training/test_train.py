"""`router-r1 train` as a user types it: two steps with real engine, learner, candidates and tracking; and failures."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import yaml
from processes import Program, command

from cluster.config.loading import load_config
from cluster.runs.folder import RunFolder
from cluster.runs.metrics import undeclared

pytestmark = [pytest.mark.engine, pytest.mark.slow]

_CODE = "import sys; sys.argv[0] = 'router-r1'; from cluster.cli.app import main; main()"
_SMALL = ("run.steps=2", "run.groups_per_step=4", "run.group_size=4", "data.eval_questions=16")


def program(folder: Path, name: str, *overrides: str) -> Program:
    arguments = ["train", "quickstart", f"run.folder={folder}", f"run.name={name}", *_SMALL, *overrides]
    return Program(_CODE, arguments, user_files="packages")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """A whole run, on two learner ranks under ZeRO-2, with a KL to the reference policy."""
    folder = tmp_path_factory.mktemp("runs")
    run = program(folder, "whole", "learner.ranks=2", "learner.zero_stage=2", "learner.kl_coef=0.01", "run.trace=true")
    try:
        assert run.process.wait(400) == 0, run.output
    finally:
        left = run.left()
    assert left == []
    return RunFolder(folder / "whole"), run.output


def test_a_run_leaves_a_whole_folder(trained: tuple[RunFolder, str]) -> None:
    run, _ = trained
    assert [path.name for path in run.checkpoints()] == ["step_000002"]
    assert run.plot_file.read_bytes().startswith(b"\x89PNG")
    assert any(run.path.glob("wandb/offline-run-*/*.wandb"))
    config = load_config(str(run.config_file))
    assert config.learner.ranks == 2
    assert yaml.safe_load(run.config_file.read_text())["rewards"]["alpha"] == 0.0
    report = (run.path / "trajectories" / "step_000001.md").read_text()
    assert "<think>" in report
    assert "accepted answers" in report


def test_metrics_have_a_line_a_step_under_declared_names(trained: tuple[RunFolder, str]) -> None:
    rows = trained[0].read_metrics()
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert ["eval/em" in row for row in rows] == [True, False, True]
    assert all(undeclared(key for key in row if key != "step") == [] for row in rows)
    steps = [row for row in rows if "learner/loss" in row]
    assert [row["policy/version"] for row in steps] == [1, 2]
    assert all(row["rollout/staleness"] == 0 for row in steps)
    assert all(row["policy/kl_ref"] >= 0 for row in steps)


def test_idle_shares_are_told_and_a_trace_shows_every_episode(trained: tuple[RunFolder, str]) -> None:
    run, output = trained
    steps = [row for row in run.read_metrics() if "learner/loss" in row]
    for row in steps:
        assert all(0 < row[f"idle/{who}"] < 1 for who in ("engines", "learner", "callers"))
        assert 0 < row["rollout/engine_fill"] <= 1
        assert row["rollout/staleness_mean"] == row["rollout/stale_groups"] == 0
    assert "idle engines" in output
    events = json.loads((run.path / "trace_from_step_000001.json").read_text() + "]")
    names = {number["pid"]: number["args"]["name"] for number in events if number["name"] == "process_name"}
    rows = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert set(names.values()) == {"driver", "rollout worker 0"}
    slices = [e for e in events if e["ph"] == "X"]
    assert {e["name"] for e in slices if names[e["pid"]] == "driver"} >= {"rollout", "learn", "sync", "evaluate"}
    episodes = [e for e in slices if e["name"] == "episode"]
    assert len({(e["args"]["group"], e["ts"]) for e in episodes}) >= 2 * 16
    turns = [e for e in slices if e["name"] == "turn"]
    for turn in turns:  # each lies within an episode of its row
        assert any(
            e["tid"] == turn["tid"] and e["ts"] <= turn["ts"] and turn["ts"] + turn["dur"] <= e["ts"] + e["dur"] + 2
            for e in episodes
        )
    assert sum(rows[e["tid"]].startswith("calls") for e in slices) > 0
    assert [e["args"]["version"] for e in slices if e["name"] == "pause"][:1] == [1]


def test_tokens_trained_on_are_the_tokens_sampled(trained: tuple[RunFolder, str]) -> None:
    """Invariants 1 and 4, over the whole system: ratio 1 at the first step, and equal engines after every sync."""
    summary = json.loads(trained[0].summary_file.read_text())
    assert summary["first_step_ratio_deviation"] <= 1e-3
    assert summary["probe_max_diff"] <= 1e-3
    for row in trained[0].read_metrics():
        if "policy/ratio_max_deviation" in row:
            assert row["policy/ratio_max_deviation"] <= 1e-3
            assert row["policy/logprob_diff_max"] <= 1e-3


def test_the_summary_compares_with_what_there_is_to_compare_with(trained: tuple[RunFolder, str]) -> None:
    run, output = trained
    summary = json.loads(run.summary_file.read_text())
    for name in (
        "before",
        "after",
        "most_competent",
        "best_constant_hindsight",
        "random",
        "after_unseen",
        "most_competent_unseen",
    ):
        assert 0 <= summary[name]["em"] <= 1
        assert summary[name]["cost_usd_per_1k_questions"] > 0
        assert sum(summary[name]["call_share"].values()) == pytest.approx(1)
    assert summary["most_competent"]["em"] > summary["random"]["em"]
    assert {"start", "rollout", "learn", "sync", "evaluate", "total"} <= set(summary["seconds"])
    assert "What to type next" in output
    assert "step 2/2" in output


def test_the_checkpoint_loads_in_transformers_and_differs_from_where_it_started(
    trained: tuple[RunFolder, str],
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.world.coldstart import CHECKPOINT

    folder = trained[0].latest_checkpoint()
    assert folder is not None
    after = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    moved = [(a - b).abs().max().item() for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert max(moved) > 0
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == AutoTokenizer.from_pretrained(CHECKPOINT).get_vocab()


def test_a_run_repeated_in_replay_costs_nothing_and_learns_the_same(
    trained: tuple[RunFolder, str], tmp_path: Path
) -> None:
    recorded = trained[0]
    same = ("learner.ranks=2", "learner.zero_stage=2", "learner.kl_coef=0.01")
    replay = ("candidates.pool.ledger=replay", f"candidates.pool.ledger_url={recorded.path}")
    run = program(tmp_path, "again", *same, *replay)
    try:
        assert run.process.wait(400) == 0, run.output
    finally:
        left = run.left()
    assert left == []
    again = RunFolder(tmp_path / "again")
    assert json.loads(again.summary_file.read_text())["usd_total"] == 0
    assert again.read_metrics()[-1]["pool/requests"] == 0
    timed = (
        "time/", "cost/usd_total", "cost/usd/", "pool/", "learner/tokens_per_s", "learner/mfu", "learner/peak",
        "rollout/tokens_per_s", "rollout/episode_s", "rollout/call_latency_s", "idle/",
        "rollout/generating", "rollout/engine_fill",
    )  # fmt: skip

    def numbers(folder: RunFolder) -> list[dict[str, float]]:
        return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in folder.read_metrics()]

    assert numbers(again) == numbers(recorded)
    weights = [folder.checkpoint(2) / "model.safetensors" for folder in (recorded, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_spent_cap_ends_the_run_with_a_checkpoint_and_tells_how_to_go_on(tmp_path: Path) -> None:
    evaluation = 16 * 16 * 2e-5  # the most USD that an evaluation can cost: questions, calls, price
    run = program(tmp_path, "poor", "run.steps=500", f"candidates.pool.cap_usd_per_run={evaluation}")
    try:
        assert run.process.wait(300) == 2, run.output
    finally:
        left = run.left()
    assert left == []
    assert "pool.cap_usd_per_run" in run.output
    assert "to go on:" in run.output
    assert "Traceback" not in run.output
    folder = RunFolder(tmp_path / "poor")
    assert folder.latest_checkpoint() is not None
    assert 0 < folder.read_metrics()[-1]["cost/usd_total"] <= evaluation


def test_ctrl_c_saves_what_was_learnt_and_leaves_no_process(tmp_path: Path) -> None:
    run = program(tmp_path, "stopped", "run.steps=500")
    try:
        run.wait_for("step 2/500", 300)
        assert run.stop(signal.SIGINT, timeout_s=90) == 130, run.output
    finally:
        left = run.left()
    assert left == []
    folder = RunFolder(tmp_path / "stopped")
    latest = folder.latest_checkpoint()
    assert latest is not None
    assert latest.name >= "step_000002"
    assert not list(folder.checkpoints_path.glob(".*"))
    assert "checkpoint" in run.output.splitlines()[-1]


def test_ctrl_c_while_engines_start_leaves_no_process(tmp_path: Path) -> None:
    run = program(tmp_path, "early")
    until = time.monotonic() + 200
    try:
        while not any("multiprocessing" in " ".join(command(process)) for process in run.family()):
            assert run.process.poll() is None, run.output
            assert time.monotonic() < until, "no engine was started"
            time.sleep(0.3)
        assert run.stop(signal.SIGINT, timeout_s=120) == 130, run.output
    finally:
        left = run.left()
    assert left == []
    assert RunFolder(tmp_path / "early").checkpoints() == []


def test_candidates_that_go_away_in_mid_run_give_one_clear_error(tmp_path: Path) -> None:
    run = program(tmp_path, "alone", "run.steps=500", "run.retry_pause_s=1", "candidates.pool.total_timeout_s=3")
    try:
        run.wait_for("step 1/500", 300)
        server = next(p for p in run.family() if "benchmarks.world.server" in " ".join(command(p)))
        server.kill()
        assert run.process.wait(120) == 2, run.output
    finally:
        left = run.left()
    assert left == []
    assert "episodes are void" in run.output
    assert "candidates" in run.output
    assert "Traceback" not in run.output
    assert RunFolder(tmp_path / "alone").latest_checkpoint() is not None


def test_an_engine_that_differs_from_the_learner_stops_the_run(tmp_path: Path) -> None:
    """Invariant 4: no two float32 programs agree within this tolerance, so a sync fails as if weights were damaged."""
    run = program(tmp_path, "spoilt", "run.probe_tolerance=1e-12")
    try:
        assert run.process.wait(300) == 2, run.output
    finally:
        left = run.left()
    assert left == []
    assert "differs from the learner" in run.output
    assert "Traceback" not in run.output


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("candidates.serve=none", "candidates.pool.cards=none.yaml", "data.train=q.jsonl"), "q.jsonl"),
        (("policy.checkpoint=./nowhere",), "nowhere"),
        (("data.train=missing.jsonl",), "missing.jsonl"),
        (("data.eval=missing.jsonl", "candidates.serve=recorded", "data.train=q.jsonl"), "candidates.replies"),
        (("learner.optimizer.lr=fast",), "learner.optimizer.lr"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    run = program(tmp_path, "refused", *overrides)
    assert run.process.wait(60) == 2
    assert message in run.output
    assert "Traceback" not in run.output
    assert not (tmp_path / "refused").exists()
