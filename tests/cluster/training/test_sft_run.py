"""`router-r1 sft` as a user types it: real learner ranks and a few steps; Ctrl-C and bad input."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
from processes import Program
from tiny_llama import save_tiny_llama

from cluster.config.loading import load_config
from cluster.runs.folder import RunFolder
from cluster.runs.metrics import undeclared
from learner.demonstrations import Demonstration, Segment

pytestmark = [pytest.mark.engine, pytest.mark.slow]

_CODE = "import sys; sys.argv[0] = 'router-r1'; from cluster.cli.app import main; main()"
_TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer

    path = tmp_path_factory.mktemp("policy")
    save_tiny_llama(path, tied=True, seed=1)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy has to write the prompt's only word twice, read two other words, and write the word again."""
    path, rng = tmp_path_factory.mktemp("data") / "demos.jsonl", random.Random(0)
    lines = []
    for number in range(40):
        word = f"w{rng.randrange(2, 8)}"
        segments = (Segment(f"{word} {word}", True), Segment("w20 w21", False), Segment(word, True))
        lines.append(Demonstration(str(number), word, segments).to_line())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def program(folder: Path, checkpoint: Path, demonstrations: Path, name: str, *overrides: str) -> Program:
    given = [f"run.folder={folder}", f"run.name={name}", f"policy.checkpoint={checkpoint}"]
    given += [f"sft.demonstrations={demonstrations}", "sft.lr=3e-3", "sft.demonstrations_per_step=8", *overrides]
    return Program(_CODE, ["sft", "quickstart", "learner.threads=1", *given])


def test_the_loss_falls_and_the_run_folder_is_whole(checkpoint: Path, demonstrations: Path, tmp_path: Path) -> None:
    ranks = ("learner.ranks=2", "learner.zero_stage=2", "sft.epochs=3", "sft.heldout_share=0.2")
    run = program(tmp_path, checkpoint, demonstrations, "whole", *ranks)
    try:
        assert run.process.wait(300) == 0, run.output
    finally:
        left = run.left()
    assert left == []
    time.sleep(0.5)  # the reader thread may still hold the last lines
    folder = RunFolder(tmp_path / "whole")
    rows = folder.read_metrics()
    assert [row["step"] for row in rows] == list(range(13))  # 32 demonstrations in 4 steps, three times
    assert [row["step"] for row in rows if "sft/heldout_loss" in row] == [0, 4, 8, 12]
    assert all(undeclared(key for key in row if key != "step") == [] for row in rows)
    assert rows[12]["sft/loss"] < rows[1]["sft/loss"] / 2
    assert rows[12]["learner/lr"] < max(row.get("learner/lr", 0) for row in rows) == pytest.approx(3e-3)
    assert all(row["learner/tokens_trained"] == 24 for row in rows[1:])

    summary = json.loads(folder.summary_file.read_text())
    assert summary["loss_before"] == rows[0]["sft/heldout_loss"]
    assert summary["loss_after"] == rows[12]["sft/heldout_loss"] < summary["loss_before"] / 2
    assert (summary["demonstrations"], summary["heldout"], summary["steps"]) == (32, 8, 12)
    assert f"held-out loss {summary['loss_before']:.4f} -> {summary['loss_after']:.4f}" in run.output
    assert f"router-r1 train quickstart policy.checkpoint={folder.latest_checkpoint()}" in run.output
    assert "router-r1 sft " in folder.config_file.read_text()
    assert load_config(str(folder.config_file)).sft.epochs == 3
    assert any(folder.path.glob("wandb/offline-run-*/*.wandb"))

    from transformers import AutoModelForCausalLM, AutoTokenizer

    latest = folder.latest_checkpoint()
    assert latest is not None
    assert AutoModelForCausalLM.from_pretrained(latest).config.vocab_size == 300
    assert AutoTokenizer.from_pretrained(latest).chat_template == _TEMPLATE


def test_ctrl_c_saves_what_was_learnt_and_leaves_no_process(
    checkpoint: Path, demonstrations: Path, tmp_path: Path
) -> None:
    run = program(tmp_path, checkpoint, demonstrations, "stopped", "sft.epochs=5000")
    try:
        run.wait_for("step 2/", 200)
        assert run.stop(signal.SIGINT, timeout_s=200) == 130, run.output
    finally:
        left = run.left()
    assert left == []
    latest = RunFolder(tmp_path / "stopped").latest_checkpoint()
    assert latest is not None
    assert latest.name >= "step_000002"
    time.sleep(0.5)
    assert str(latest) in run.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("sft.demonstrations=[]",), "sft.demonstrations is empty"),
        (("sft.demonstrations=nowhere.jsonl",), "nowhere.jsonl: no such file of demonstrations"),
        (("engine.max_model_len=4",), "engine.max_model_len=4"),
        (("sft.epochs=0",), "sft.epochs"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    checkpoint: Path, demonstrations: Path, tmp_path: Path, overrides: tuple[str, ...], words: str
) -> None:
    run = program(tmp_path, checkpoint, demonstrations, "refused", *overrides)
    assert run.process.wait(120) == 2
    time.sleep(0.2)
    assert words in run.output
    assert "Traceback" not in run.output
    assert not (tmp_path / "refused").exists()
