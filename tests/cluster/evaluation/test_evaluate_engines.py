"""`router-r1 evaluate --engines 2` as a user types it: killed engines, Ctrl-C, and no processes left behind."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from evaluations import check_unique, lines
from processes import Program, command

from benchmarks.evaluation.protocol import load_questions
from benchmarks.world.coldstart import CHECKPOINT
from cluster.config.loading import load_config

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1200)]

CODE = "import sys; sys.argv[0] = 'router-r1'; from cluster.cli.app import main; main()"
LIMIT = 24
POOL = "without:seen-polymath"
ROWS = ("policy", f"policy @ {POOL}")
# A call takes a second, and only a few episodes play at a time, so that the tests can interrupt an evaluation.
SLOW = ("candidates.latency_scale=1", "candidates.latency_lognormal=[1.0,1.5]")


def start(target: Path, out: Path, *more: str, engines: int = 2) -> Program:
    arguments = [
        "evaluate", str(target), "--limit", str(LIMIT), "--protocol", "full", "--pool", POOL, "--concurrency", "6",
        "--engines", str(engines), "--out", str(out), *(part for setting in SLOW for part in ("--set", setting)), *more,
    ]  # fmt: skip
    return Program(CODE, arguments)


def wait_for_items(program: Program, out: Path, count: int) -> None:
    items, until = out / "items.jsonl", time.monotonic() + 300
    while not (items.is_file() and len(items.read_bytes().splitlines()) >= count):
        assert program.process.poll() is None, program.output
        assert time.monotonic() < until, program.output
        time.sleep(0.02)


def cores(program: Program) -> list[psutil.Process]:
    """The processes of the program's engines."""
    return [process for process in program.family() if "VLLM::EngineCore" in " ".join(command(process))]


def wait_for_cores(program: Program) -> list[psutil.Process]:
    """Wait for both engine processes: on a busy machine a first look may find none although episodes have ended."""
    until = time.monotonic() + 10
    while len(found := cores(program)) != 2:
        family = [(process, command(process)) for process in program.family()]
        assert time.monotonic() < until, f"{found} of {family}\n{program.output}"
        time.sleep(0.05)
    return found


def end(program: Program) -> str:
    """Wait for a successful end that leaves no process behind; return the output."""
    try:
        assert program.process.wait(600) == 0, program.output
    finally:
        left = program.left()
    assert left == []
    return " ".join(program.output.split())  # warnings are wrapped


def check(out: Path, *rows: str) -> None:
    """Check that every row has every question once, and that each call was paid once."""
    check_unique(out)
    two_hop_share = load_config("quickstart").data.two_hop_share
    questions = load_questions("full", ("world:heldout",), limit=LIMIT, two_hop_share=two_hop_share)
    # The table of pools has rows of its own.
    bounds = {name for each in ("cheapest_right", "best_constant_training") for name in (each, f"{each} @ {POOL}")}
    assert {item["row"] for item in lines(out)} - set(rows) == bounds
    played = {(item["row"], item["dataset"], item["question"]) for item in lines(out) if item["row"] in rows}
    assert played == {(row, question.dataset, question.id) for row in rows for question in questions}
    with sqlite3.connect(out / "ledger.sqlite") as ledger:
        places = ledger.execute(
            "SELECT episode, turn, call_index, request_hash FROM ledger_calls WHERE status = 'ok'"
        ).fetchall()
        [[unsettled]] = ledger.execute("SELECT count(*) FROM ledger_calls WHERE status = 'open'")
        [[paid]] = ledger.execute("SELECT SUM(cost_nano) FROM ledger_calls")
    assert places
    assert {place: n for place, n in Counter(places).items() if n > 1} == {}
    assert unsettled == 0
    assert json.loads((out / "evaluation.json").read_text())["spent_usd"] == pytest.approx(paid / 1e9)


def test_an_engine_is_killed_and_the_other_plays_every_episode_to_its_end(tmp_path: Path) -> None:
    trained, out = tmp_path / "trained", tmp_path / "out"
    shutil.copytree(
        CHECKPOINT, trained
    )  # the evaluation takes the copy for other weights, so that `direct` has its own engines
    program = start(trained, out, "--baselines", "direct")
    try:
        wait_for_items(program, out, 4)
        wait_for_cores(program)[0].kill()
        said = end(program)
    finally:
        program.process.kill()
    assert f"2 engines play {2 * LIMIT} episodes, 6 at a time" in said
    assert f"2 engines play {LIMIT} episodes, 6 at a time" in said
    assert re.search(r"rollout worker \d is lost \(Engine", said)
    check(out, *ROWS, "direct")
    assert not (out / "failures.jsonl").exists()
    # Each call was made and paid exactly once.
    spent = json.loads((out / "evaluation.json").read_text())["spent_usd"]
    assert spent == pytest.approx(sum(item["cost_usd"] for item in lines(out) if item["row"] in ROWS))

    table = (out / "table.md").read_text()
    said = end(start(trained, out, "--baselines", "direct", engines=1))
    assert f"{2 * LIMIT} of {2 * LIMIT} episodes were played before" in said
    assert (out / "table.md").read_text() == table


def test_ctrl_c_leaves_nothing_behind_and_one_engine_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = start(CHECKPOINT, out, "--baselines", "none")
    try:
        wait_for_items(program, out, 4)
        wait_for_cores(program)
        assert program.stop(signal.SIGINT, 120) == 130, program.output
    finally:
        program.process.kill()
        left = program.left()
    assert left == []
    assert "the same command goes on" in " ".join(program.output.split())
    done = len(lines(out))
    assert 4 <= done < 2 * LIMIT
    said = end(start(CHECKPOINT, out, "--baselines", "none", engines=1))
    assert f"{done} of {2 * LIMIT} episodes were played before" in said
    check(out, *ROWS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("engine.start_timeout_s=0.5",), "rollout workers [0, 1] did not start its engine within 0.5 s"),
        (
            ("placement.strategy=STRICT_SPREAD", "placement.timeout_s=3"),  # needs two machines, but there is one
            "Ray on this machine did not grant what was asked for",
        ),
    ],
    ids=["late", "no room"],
)
def test_engines_that_can_not_be_had_leave_nothing_behind(
    settings: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    program = start(CHECKPOINT, out, "--baselines", "none", *(part for each in settings for part in ("--set", each)))
    try:
        assert program.process.wait(300) == 2, program.output
    finally:
        program.process.kill()
        left = program.left()
    assert left == []
    assert message in " ".join(program.output.split())
    assert not (out / "items.jsonl").exists()
