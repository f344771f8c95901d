"""`router-r1 ledger` on ledgers that the product wrote: sums, tables, files, and what pruning leaves."""

from __future__ import annotations

import asyncio
import csv
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pyarrow import parquet
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from actors.ledger.database import database_url
from actors.ledger.ledger import CallEntry, CallPlace, Ledger, LedgerError, Settled
from cluster.cli.app import app

DAY_S = 86_400.0
NOW = time.time()
NOON = 1_790_000_000.0 // DAY_S * DAY_S + DAY_S / 2  # 2026-09-21
OK = Settled("ok", 'Paris, "où"\nélse', 10, 5, 0.0001, latency_s=0.1, attempts=1)
FAILED = Settled("timeout", prompt_tokens=10, cost_usd=0.000_02, latency_s=9.0, attempts=3, error="no reply")


def ledger(*arguments: object, input_: str | None = None) -> Result:
    return CliRunner().invoke(app, ["ledger", *map(str, arguments)], input=input_)


def output_of(*arguments: object) -> Any:
    done = ledger(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


async def write(url: str, run: str, calls: list[tuple[str, float, Settled | None]], misses: int = 0) -> None:
    """Calls by model, when they began, and what they came to (None: still open), each of an episode of its own."""
    book = await Ledger.open(url, run=run)

    async def call(number: int, model: str, started_at: float, settled: Settled | None) -> None:
        place = CallPlace(number // 2, f"{number}", 0, 0)
        id_ = f"{run}-{number}"
        entry = CallEntry(id_, place, model, "host", f"hash {number}", '{"a": 1}', 0.5, started_at)
        if await book.begin(entry) is None and settled is not None:
            await book.settle(id_, settled)

    await asyncio.gather(*(call(number, *fields) for number, fields in enumerate(calls)))
    await asyncio.gather(*(book.find(f"hash {number}") for number in range(len(calls))))
    await asyncio.gather(*(book.find("unknown") for _ in range(misses)))
    await book.close()


def age(url: str, days: float) -> None:
    """As if all of it had happened so much earlier; the ledger stamps settlements with the clock itself."""
    engine = create_engine(database_url(url))
    with engine.begin() as connection:
        shift = {"us": int(days * DAY_S * 1e6)}
        update = "UPDATE ledger_calls SET started_us = started_us - :us, settled_us = settled_us - :us"
        connection.execute(text(update), shift)
    engine.dispose()


@pytest.fixture
async def two_runs(ledger_url: str) -> str:
    latencies = [replace(OK, latency_s=number / 100) for number in range(1, 101)]
    await write(ledger_url, "first", [("small", NOON, settled) for settled in latencies], misses=25)
    await write(
        ledger_url,
        "second",
        [
            ("small", NOON + DAY_S, OK),
            ("large", NOON + DAY_S, replace(OK, cost_usd=1.25, estimated=True, hedged=True)),
            ("large", NOON + DAY_S, FAILED),
            ("large", NOON + DAY_S, None),
        ],
    )
    return ledger_url


def test_stats_counts_everything(two_runs: str) -> None:
    found = output_of("stats", two_runs)
    total = found["total"]
    assert total["statuses"] == {"ok": 102, "open": 1, "timeout": 1}
    assert (total["calls"], total["cost_usd"], total["reserved_usd"]) == (104, 1.26012, 0.5)
    assert (total["hits"], total["misses"]) == (104, 25)  # a reply of one run answers another
    assert total["hit_rate"] == pytest.approx(104 / 129)
    large, small = found["models"]
    assert (large["model"], large["calls"], large["open"]) == ("large", 3, 1)
    assert (large["failure_rate"], large["attempts_per_call"]) == (0.5, 2)
    assert (large["hedged"], large["estimated"], large["cost_usd"]) == (1, 1, 1.25002)
    assert (small["prompt_tokens"], small["completion_tokens"], small["failure_rate"]) == (1010, 505, 0)
    assert small["latency_p50_s"] == pytest.approx(0.50)
    assert small["latency_p99_s"] == pytest.approx(0.99)
    assert [(row["day"], row["model"], row["calls"]) for row in found["days"]] == [
        ("2026-09-21", "small", 100),
        ("2026-09-22", "large", 3),
        ("2026-09-22", "small", 1),
    ]


def test_stats_of_one_run_as_tables(two_runs: str) -> None:
    done = ledger("stats", two_runs, "--run", "second")
    assert done.exit_code == 0
    assert "4 calls (2 ok, 1 open, 1 timeout): $1.250120" in done.stdout
    assert "$0.500000 reserved" in done.stdout
    assert "50.0%" in done.stdout
    assert "2026-09-22" in done.stdout
    assert "2026-09-21" not in done.stdout


def test_cost_sums_by_any_key(two_runs: str) -> None:
    assert output_of("cost", two_runs) == [
        {"model": "large", "calls": 3, "cost_usd": 1.25002, "reserved_usd": 0.5},
        {"model": "small", "calls": 101, "cost_usd": 0.0101, "reserved_usd": 0},
    ]
    by_run_and_step = output_of("cost", two_runs, "--by", "run", "--by", "step", "--run", "second")
    assert [(row["run"], row["step"], row["calls"]) for row in by_run_and_step] == [("second", 0, 2), ("second", 1, 2)]
    assert [row["day"] for row in output_of("cost", two_runs, "--by", "day")] == ["2026-09-21", "2026-09-22"]
    assert "$1.260120 in all" in ledger("cost", two_runs).stdout


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_exports_hold_every_call_as_it_is(two_runs: str, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"calls.{kind}"
    assert "104 calls" in ledger("export", two_runs, file).stdout
    if kind == "parquet":
        rows = parquet.read_table(file).to_pylist()
    elif kind == "csv":
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    else:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 104
    large = next(row for row in rows if row["id"] == "second-1")
    assert (large["reply"], large["request"], large["status"]) == (OK.reply, '{"a": 1}', "ok")
    assert float(large["cost_usd"]) == 1.25
    assert str(large["started_at"]).startswith("2026-09-22")
    still_open = next(row for row in rows if row["id"] == "second-3")
    assert still_open["cost_usd"] in (None, "")
    assert float(still_open["reserved_usd"]) == 0.5
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


async def test_exports_are_not_overwritten_unless_told(tmp_path: Path) -> None:
    await write(str(tmp_path), "r", [("small", NOW, OK)])
    file = tmp_path / "calls.csv"
    file.write_text("mine")
    refused = ledger("export", tmp_path, file)
    assert isinstance(refused.exception, LedgerError)
    assert "--force" in str(refused.exception)
    assert ledger("export", tmp_path, file, "--force").exit_code == 0
    assert file.read_text().count("\n") > 1
    for wrong, why in ((tmp_path / "calls.xml", ".parquet"), (tmp_path / "nowhere" / "calls.csv", "can't be written")):
        assert why in str(ledger("export", tmp_path, wrong).exception)


async def test_prune_removes_old_calls_of_runs_that_are_over(ledger_url: str) -> None:
    for run in ("over", "kept", "resumed"):
        await write(ledger_url, run, [("small", NOW, OK)] * 4 + [("small", NOW, None)])
    age(ledger_url, 10)
    await write(ledger_url, "over", [("small", NOW - 5 * DAY_S, None)] * 6)
    age(ledger_url, 10)
    await write(ledger_url, "resumed", [("small", NOW, OK)] * 6)  # one of them at a new place: the run is live
    before = output_of("cost", ledger_url, "--by", "run")
    assert [row["calls"] for row in before] == [5, 6, 6]

    asked = ledger("prune", ledger_url, "--older-than", 18, "--keep-run", "kept", input_="n\n")
    assert asked.exit_code == 1
    assert output_of("cost", ledger_url, "--by", "run") == before
    done = ledger("prune", ledger_url, "--older-than", 18, "--keep-run", "kept", "--yes")
    assert "kept, for they are live: resumed" in done.stdout
    assert "removed 4 calls older than 18 days, which cost $0.000400" in done.stdout
    assert [(row["run"], row["calls"]) for row in output_of("cost", ledger_url, "--by", "run")] == [
        ("kept", 5),
        ("over", 2),
        ("resumed", 6),
    ]
    assert "nothing to prune" in ledger("prune", ledger_url, "--older-than", 18, "--keep-run", "kept", "-y").stdout


async def test_prune_of_texts_keeps_every_sum_and_asks_again_what_it_forgot(ledger_url: str) -> None:
    await write(ledger_url, "r", [("small", NOW, OK), ("large", NOW, FAILED), ("large", NOW, None)])
    age(ledger_url, 3)
    before = output_of("stats", ledger_url)
    done = ledger("prune", ledger_url, "--older-than", 2, "--keep-rows", "--yes")
    assert "removed the requests and replies of 3 calls" in done.stdout
    assert output_of("stats", ledger_url) == before
    book = await Ledger.open(ledger_url, run="r")
    assert await book.find("hash 0", CallPlace(0, "0", 0, 0)) is None
    assert (
        await book.begin(CallEntry("new", CallPlace(0, "0", 0, 0), "small", "host", "hash 0", "{}", 0.5, NOW)) is None
    )
    await book.close()


async def test_prune_gives_the_disk_its_space_back(tmp_path: Path) -> None:
    await write(str(tmp_path), "r", [("small", NOW, replace(OK, reply="x" * 20_000))] * 100)
    age(str(tmp_path), 3)
    before = (tmp_path / "ledger.sqlite").stat().st_size
    assert before > 2_000_000
    assert ledger("prune", tmp_path, "--older-than", 2, "--yes").exit_code == 0
    assert (tmp_path / "ledger.sqlite").stat().st_size < before / 10


async def test_prune_lets_a_running_caller_go_on(tmp_path: Path) -> None:
    await write(str(tmp_path), "old", [("small", NOW, OK)] * 500)
    age(str(tmp_path), 3)
    book = await Ledger.open(str(tmp_path), run="new")
    pruning = asyncio.create_task(asyncio.to_thread(ledger, "prune", tmp_path, "--older-than", 2, "--yes"))
    begun = 0
    while not pruning.done():
        place = CallPlace(0, f"{begun}", 0, 0)
        await book.begin(CallEntry(f"n{begun}", place, "small", "host", "h", "{}", 0.5, time.time()))
        begun += 1
    assert (await pruning).exit_code == 0
    await book.close()
    assert begun
    assert [row["calls"] for row in output_of("cost", tmp_path, "--by", "run")] == [begun]


async def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    await write(str(tmp_path), "there", [("small", NOW, OK)])
    for arguments, why in (
        (("stats", tmp_path / "nowhere"), "no ledger at"),
        (("stats", tmp_path, "--run", "elsewhere"), "no run 'elsewhere'; it has there"),
        (("stats", "mysql://me:tops3cret@host/x"), "not in 'mysql'"),
    ):
        error = ledger(*arguments).exception
        assert isinstance(error, LedgerError)
        assert why in str(error)
    assert not (tmp_path / "nowhere").exists()


def test_an_explained_error_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster.cli", "ledger", "cost", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no ledger at")
    assert "Traceback" not in done.stderr
