"""A real pretrained model with its tokenizer and chat template trains with the same code, for two optimizer steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import Program

from cluster.runs.folder import RunFolder

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1200)]

_CODE = "import sys; sys.argv[0] = 'router-r1'; from cluster.cli.app import main; main()"
_FACTS = (("where is the eiffel tower", "Paris"), ("who wrote hamlet", "William Shakespeare"))


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_smollm2_trains_on_questions_against_recorded_replies(tmp_path: Path) -> None:
    questions = [
        {"id": f"q{n}", "dataset": "nq", "question": question, "answers": [answer]}
        for n, (question, answer) in enumerate(_FACTS)
    ]
    replies = [
        {"id": row["id"], "question": row["question"], "model": model, "response": f"It is {answer}.", "correct": True}
        for row, (_, answer) in zip(questions, _FACTS, strict=True)
        for model in ("GPT-3.5", "ChatGPT-4")
    ]
    source = write_lines(tmp_path / "questions.jsonl", questions)
    recorded = write_lines(tmp_path / "replies.jsonl", replies)
    run = Program(
        _CODE,
        [
            *("train", "smollm2_nq", f"run.folder={tmp_path}", "run.name=smol", f"data.train={source}"),
            *(f"data.eval={source}", "data.eval_questions=2", f"candidates.replies={recorded}"),
            *("run.groups_per_step=2", "run.group_size=2", "episode.max_turn_tokens=8", "engine.max_model_len=640"),
        ],
    )
    try:
        assert run.process.wait(900) == 0, run.output
    finally:
        left = run.left()
    assert left == []
    folder = RunFolder(tmp_path / "smol")
    rows = [row for row in folder.read_metrics() if "learner/loss" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["sync/probe_max_diff"] <= 1e-3 for row in rows)
    assert rows[0]["policy/ratio_max_deviation"] <= 1e-3
    assert folder.latest_checkpoint() is not None
    report = (folder.path / "trajectories" / "step_000001.md").read_text()
    assert "<|im_start|>" not in report.split("## Prompt")[1].split("## Turn")[0]
