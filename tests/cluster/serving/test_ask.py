"""`ask` as a user types it: the episode in the terminal, and a clean end."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml
from made_up import write_checkpoint
from processes import Program, command
from sqlalchemy import select

from actors.ledger.database import existing_ledger
from actors.ledger.schema import calls as recorded
from actors.questions import QuestionError
from benchmarks.world.coldstart import CHECKPOINT
from benchmarks.world.facts import World
from cluster.config.loading import ConfigError, load_config
from cluster.players.responder import open_source
from cluster.runs.files import RunFolderError
from cluster.serving.ask import ask

_CODE = """
import sys
from cluster.session.logs import quiet_libraries
quiet_libraries()
from cluster.serving.ask import ask
trajectory = ask(sys.argv[1], sys.argv[2])
print("ANSWER", trajectory.transcript.answer)
print("CALLS", len(trajectory.transcript.calls))
"""


@pytest.fixture
def question() -> str:
    return next(World().questions("heldout", 1, 0.0))[0].text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that asks its ledger first."""
    folder = tmp_path / "run"
    shutil.copytree(CHECKPOINT, folder / "checkpoints" / "step_000003")
    config = load_config("quickstart", ["candidates.pool.ledger=cache"]).dump()
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


@pytest.mark.engine
def test_ask_shows_thinking_routes_and_answer(question: str, run: Path) -> None:
    program = Program(_CODE, [str(run), question])
    try:
        assert program.process.wait(300) == 0
    finally:
        left = program.left()
    assert left == []
    program.wait_for("CALLS", 5)
    output = program.output
    answer = output.partition("ANSWER ")[2].splitlines()[0]
    assert f"\nAnswer: {answer}\n" in output
    assert question in output
    assert "<think>" in output
    assert "<answer>" not in output
    calls = int(output.partition("CALLS ")[2].splitlines()[0])
    assert output.count("→ ") == calls >= 1
    assert output.index("<think>") < output.index("→ ") < output.index("<information>") < output.index("Answer:")
    assert "$0.0" in output
    assert "\x1b" not in output  # plain text, because the output is piped
    assert "Exception ignored" not in output
    with existing_ledger(run) as ledger:
        rows = ledger.execute(select(recorded.c.run, recorded.c.status, recorded.c.cost_nano)).all()
    booked = (run / "run_id").read_text(encoding="utf-8").strip() + "/answers"
    assert [(row.run, row.status) for row in rows] == [(booked, "ok")] * calls
    assert all(row.cost_nano > 0 for row in rows)


@pytest.mark.engine
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ask_stopped_while_it_starts_leaves_nothing_behind(question: str, run: Path, number: signal.Signals) -> None:
    program = Program(_CODE, [str(run), question])
    until = time.monotonic() + 120
    while not any("multiprocessing" in " ".join(command(process)) for process in program.family()):
        assert program.process.poll() is None, program.output
        assert time.monotonic() < until, "no engine was started"
        time.sleep(0.2)
    assert program.stop(number, timeout_s=200) != 0
    assert program.left() == []


def test_no_question() -> None:
    with pytest.raises(QuestionError, match="empty"):
        ask(CHECKPOINT, "  ")


def test_no_such_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no such folder"):
        ask(tmp_path / "none", "who ?")


def test_a_run_supplies_its_own_settings(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run" / "checkpoints" / "step_000007")
    (tmp_path / "run" / "config.yaml").write_text("episode: {max_rounds: 2}\n", encoding="utf-8")
    source = open_source(tmp_path / "run", "router_r1_qwen3b")
    assert (source.config.episode.max_rounds, source.version, source.name) == (2, 7, "run/step_000007")
    (tmp_path / "run" / "config.yaml").write_text("episode: {max_round: 2}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"episode\.max_round: unknown key"):
        open_source(tmp_path / "run")


def test_a_bare_checkpoint_takes_the_recipe(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "policy")
    source = open_source(tmp_path / "policy", overrides=["episode.max_rounds=3"])
    assert source.config.episode.prompt == "compact"
    assert source.config.episode.max_rounds == 3
    assert source.version == 0
