"""One walk through examples, README and docs: runs their cheap commands in one folder, in their order."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from commands import ROOT, Command, commands, python_blocks, why_not_walked
from pyarrow import parquet
from typer.testing import CliRunner

from benchmarks.world.process import spawn_server, stop_server
from cluster.cli.app import app

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]  # a busy machine takes minutes to start an engine

# The walk's run, which the documents call runs/NAME: a short one of the example script.
_SHORT = ("run.name=NAME", "run.steps=2", "run.groups_per_step=4", "run.group_size=4", "data.eval_questions=8")
_SCRIPT = "python examples/train_and_ask.py"
_ADDRESS = "http://127.0.0.1:8900/v1"  # the address of the examples' pool; another process may use that port here
_EVALUATION = "evaluate world --limit 10 --baselines random,best_constant,oracle --out runs/evaluations/NAME"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with the examples, a server for their pool, and the files that the documents name."""
    process, url = spawn_server(["world", "--latency-scale", "0"])
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    cards = tmp_path / "examples" / "own_pool" / "cards.yaml"
    cards.write_text(cards.read_text(encoding="utf-8").replace(_ADDRESS, url), encoding="utf-8")
    shutil.copy(cards, tmp_path / "CARDS.yaml")
    shutil.copy(tmp_path / "examples" / "own_questions" / "heldout.jsonl", tmp_path / "QUESTIONS.jsonl")
    _write_files(tmp_path)
    handlers, environment = list(logging.getLogger().handlers), dict(os.environ)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            yield tmp_path
    finally:
        stop_server(process)
        logging.getLogger().handlers = handlers
        os.environ.clear()
        os.environ.update(environment)


def _write_files(folder: Path) -> None:
    colours = ("red", "green", "blue", "grey")
    questions = [(f"q{n}", f"what colour is thing {n} ?", colours[n % 4]) for n in range(60)]
    with (folder / "FILE.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("query", "gold"), *((text, gold) for _, text, gold in questions)])
    rows = [{"id": name, "question": text, "answers": [gold]} for name, text, gold in questions]
    _write_lines(folder / "A.jsonl", rows[:30])
    parquet.write_table(pa.Table.from_pylist(rows[30:]), folder / "B.parquet")
    replies = [
        {"id": name, "dataset": "things", "question": text, "model": model, "response": said, "correct": said == gold}
        for name, text, gold in questions
        for model, said in (("ChatGPT-3.5", "red"), ("ChatGPT-4", gold))
    ]
    _write_lines(folder / "REPLIES.jsonl", replies)
    told = "<think> who ? </think><search> Qwen2.5-7B-Instruct: which ? </search><information> red </information>"
    transcript = {"id": 1, "response": f"{told}<think> so </think><answer> red </answer>", "answers": ["red"]}
    _write_lines(folder / "transcripts.jsonl", [transcript])


def _write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_the_walk(folder: Path) -> None:
    everything = sorted(
        commands(), key=lambda command: not command.where.startswith("examples/")
    )  # the examples first: they make the run
    [train] = [each for each in everything if "candidates.pool.cards=examples/" in each.text]
    own = [word for word in train.arguments if "=" in word]  # questions and candidates of that run
    done: set[tuple[str, ...]] = set()
    for command in everything:
        typed = (command.program, *command.arguments)
        if why_not_walked(command) is not None or typed in done:
            continue
        if command.text == _SCRIPT:
            said = _run([sys.executable, "examples/train_and_ask.py", *own, *_SHORT], command)
            assert "reward" in said.splitlines()[-1]
            _invoke(_EVALUATION.split(), command)
        else:
            _walk(command)
        done.add(typed)
    assert len(done) > 30
    made = ("mine.report.json", "train.jsonl", "calls.parquet", "runs/NAME/report.html", "runs/frontier/frontier.png")
    for name in (*made, "runs/evaluations/NAME/report.html"):
        assert (folder / name).is_file(), name
    assert "measured_on: " in (folder / "measured.yaml").read_text(encoding="utf-8")
    for where, code in python_blocks():
        if "router_r1.train(" not in code:
            assert _run([sys.executable, "-c", code], where).startswith("ok ")


def _walk(command: Command) -> None:
    if command.program == "cp":
        shutil.copy(*command.arguments)
    elif command.reads:
        read = Path(command.reads).read_text(encoding="utf-8")
        scored = _run([sys.executable, "-m", "cluster.cli", *command.arguments], command, read)
        assert json.loads(scored)["em"] == 1.0
    else:
        assert command.program == "router-r1", command
        _invoke(list(command.arguments), command)


def _invoke(arguments: list[str], command: Command) -> None:
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, f"{command.where}: {command.text}\n{found.output}\n{found.exception!r}"


def _run(words: list[str], what: object, read: str = "") -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, input=read, capture_output=True, text=True, timeout=1000, env=environment, check=False)
    assert done.returncode == 0, f"{what}\n{done.stdout}\n{done.stderr}"
    return done.stdout
