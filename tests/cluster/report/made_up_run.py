"""A made-up run folder for the tests of reports: metrics, a summary, trajectories and a log, with no training."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from made_up import make_trajectory

from actors.episodes.trajectory import Trajectory
from actors.questions import Question
from benchmarks.evaluation.means import Evaluation
from cluster.config.loading import load_config
from cluster.runs.folder import RunFolder

STEPS = 40
CANDIDATES = ("seen-polymath", "seen-chef", "seen-astronomer")
BEFORE = Evaluation(200, 0.5, 0.55, 0.25, 1.25, {"seen-polymath": 0.5, "seen-chef": 0.25, "seen-astronomer": 0.25})
AFTER = Evaluation(200, 0.875, 0.9, 0.4375, 1.5, {"seen-chef": 0.5, "seen-astronomer": 0.5}, void=2)
COMPETENT = Evaluation(200, 0.95, 0.95, 0.512, 1.5, {"seen-chef": 0.5, "seen-astronomer": 0.5})
SINGLE = Evaluation(200, 0.65, 0.65, 0.125, 1.5, {"seen-polymath": 1.0})
RANDOM = Evaluation(200, 0.2, 0.2, 0.3, 1.5, dict.fromkeys(CANDIDATES, 1 / 3))
UNSEEN = Evaluation(200, 0.8, 0.8, 0.4, 1.5, {"unseen-chef": 1.0})


def make_folder(parent: Path, *overrides: str) -> RunFolder:
    """A run that has just begun."""
    return RunFolder.create(
        load_config("quickstart", [f"run.folder={parent}", "run.name=made", *overrides]), "quickstart"
    )


def make_run(parent: Path) -> RunFolder:
    """A finished run of `STEPS` steps, with evaluations before, in the middle and after."""
    folder = make_folder(parent, f"run.steps={STEPS}")
    folder.append_metrics({"step": 0, **evaluation_row(BEFORE), **spent_row(0)})
    for step in range(1, STEPS + 1):
        row = {**training_row(step), **spent_row(step)}
        if step in (STEPS // 2, STEPS):
            row |= evaluation_row(AFTER, version=step)
        folder.append_metrics({"step": step, **row})
        folder.write_trajectories(step, "train", [told(step, right=step % 3 > 0)])
    folder.write_trajectories(STEPS, "eval", [told(100, right=True), told(101, right=False)])
    folder.write_summary(summary())
    return folder


def summary() -> dict[str, Any]:
    """The summary that a run writes at its end."""
    found = {"before": BEFORE, "after": AFTER, "most_competent": COMPETENT,
             "best_constant_hindsight": SINGLE, "random": RANDOM,
             "after_unseen": UNSEEN}  # fmt: skip
    return {
        **{name: asdict(each) for name, each in found.items()},
        "before_step": 0, "after_step": STEPS, "steps": STEPS, "seed": 0, "usd_total": 12.5,
        "seconds": {"total": 600.0},
    }  # fmt: skip


def evaluation_row(found: Evaluation, version: int = 0) -> dict[str, Any]:
    numbers = {f"eval/{name}": value for name, value in found.as_dict().items() if isinstance(value, float)}
    shares = {f"eval/call_share/{name}": share for name, share in found.call_share.items()}
    return {**numbers, **shares, "eval/version": version}


def training_row(step: int) -> dict[str, Any]:
    polymath = 1 - step / STEPS
    return {
        "reward/mean": step / STEPS, "train/em": step / STEPS, "cost/usd_per_1k_questions": 0.25,
        "policy/entropy": 0.1, "policy/kl_ref": 0.01, "policy/approx_kl": 0.001, "policy/clip_fraction": 0.0,
        "rollout/staleness": 1, "rollout/tokens_per_s": 1000.0, "learner/tokens_per_s": 4000.0,
        "idle/engines": 0.5, "idle/learner": 0.25, "idle/callers": 0.1,
        "time/rollout_s": 2.0, "time/learn_s": 1.0, "time/sync_s": 0.1, "time/step_s": 3.1,
        "time/elapsed_s": 3.1 * step,
        "rollout/call_share/seen-polymath": polymath, "rollout/call_share/seen-chef": 1 - polymath,
    }  # fmt: skip


def spent_row(step: int) -> dict[str, Any]:
    return {"cost/usd_total": 0.3 * step, "cost/usd/seen-chef": 0.1 * step, "cost/usd/seen-polymath": 0.2 * step}


def told(number: int, *, right: bool, reply: str = "it is Ada .") -> Trajectory:
    """A judged episode with its own question."""
    made = make_trajectory(reply=reply)
    assert made.reward is not None
    fields = {name: getattr(made, name) for name in Trajectory.__slots__}
    question = Question(f"q-{number}", "test", f"who wrote number {number} ?", ("Ada",))
    reward = made.reward if right else replace(made.reward, outcome=0.0, em=0.0, f1=0.0, total=-0.1)
    return Trajectory(**{**fields, "question": question, "reward": reward})


def stop_short(folder: RunFolder, step: int) -> None:
    """Make the folder look like that of a run that was stopped after a step."""
    folder.summary_file.unlink()
    rows = [row for row in folder.read_metrics() if row["step"] <= step]
    folder.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
