"""`router-r1 pool`: its tables, its errors, and the figures that it writes into a card file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from actors.ledger.database import existing_ledger
from actors.ledger.entry import LedgerError
from actors.ledger.report import spend
from actors.pool.cards import CardError, load_cards, shipped_pools
from actors.pool.measure import holds_answer
from benchmarks.benches.startup import heavy_imports
from benchmarks.world.server import Answer, CandidateServer, FaultSettings
from cluster.cli.app import app

pytestmark = pytest.mark.thorough

KEY = "sk-a-key-nobody-may-see"
QUESTIONS = [
    {"id": "1", "dataset": "colours", "question": "red and blue", "answers": ["Blue"]},
    {"id": "2", "dataset": "colours", "question": "green and grey", "answers": ["black"]},
    {"id": "3", "dataset": "numbers", "question": "seven and eight", "answers": ["nine", "Seven"]},
]


class Echo:
    """Replies with the query."""

    models = ("small", "large")

    def answer(self, model: str, query: str, question_id: str | None) -> Answer:
        return Answer(f"I heard: {query}.", len(query.split()) + 2, 20, 0.0 if model == "small" else 0.02)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # commands make their ledger there


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start servers on the loop of another thread, because the tested command has its own loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers: list[CandidateServer] = []

    def start(latency_scale: float = 1.0, **faults: float) -> str:
        server = CandidateServer(Echo(), latency_scale=latency_scale, faults=FaultSettings.model_validate(faults))
        servers.append(server)
        return asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)

    yield start
    for server in servers:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def card_file(folder: Path, *cards: tuple[str, str, str]) -> Path:
    """Write cards with a name, a base URL and more lines, and with comments that must stay."""
    rows = [
        f"""\
  - name: {name}  # as the policy writes it
    descriptor: "for tests"
    base_url: {base_url}
    # the prices of spring
    price_in_usd_per_mtok: 1.0
    price_out_usd_per_mtok: 3.00
    max_output_tokens: 64
{more}"""
        for name, base_url, more in cards
    ]
    path = folder / "cards.yaml"
    path.write_text("# my pool\nmodels:\n" + "".join(rows))
    return path


def question_file(folder: Path) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["pool", *map(str, arguments)])


def costs(ledger: str) -> list[dict[str, Any]]:
    """The costs in a ledger, by run."""
    with existing_ledger(ledger) as connection:
        return spend(connection, ["run"])


def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def test_what_asks_nobody_imports_nothing_heavy() -> None:
    assert heavy_imports("pool check local_vllm") == []


def test_list_shows_the_shipped_pools_and_their_cards() -> None:
    text = run("list").stdout
    for pool in shipped_pools():
        assert pool.stem in text
    text = run("list", "router_r1_six").stdout
    for card in load_cards(next(pool for pool in shipped_pools() if pool.stem == "router_r1_six")):
        assert card.name in text
        assert f"{card.price_out_usd_per_mtok:g}" in text
    rows = json.loads(run("list", "hosted_provider", "--json").stdout)
    assert rows[0]["priced_on"] == "2026-01-31"


def test_check_tells_keys_apart_and_shows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SET_KEY", KEY)
    monkeypatch.setenv("A_BLANK_KEY", " ")
    path = card_file(
        tmp_path,
        ("one", "http://127.0.0.1:1/v1", "    api_key_env: A_SET_KEY\n"),
        ("two", "http://127.0.0.1:1/v1", ""),
    )
    good = run("check", path)
    assert good.exit_code == 0
    assert "set" in good.stdout
    assert "none needed" in good.stdout
    path = card_file(
        tmp_path,
        ("one", "http://127.0.0.1:1/v1", "    api_key_env: A_SET_KEY\n"),
        ("two", "http://127.0.0.1:1/v1", "    api_key_env: A_BLANK_KEY\n"),
        ("three", "ftp://127.0.0.1/v1", ""),
        ("four", "http://127.0.0.1:1/v1", "    api_key_env: A_KEY_THAT_IS_NOWHERE\n"),
    )
    bad = run("check", path)
    assert bad.exit_code == 2
    for part in ("A_BLANK_KEY is not set", "A_KEY_THAT_IS_NOWHERE is not set", "card 3 ('three')", "base_url"):
        assert part in bad.output
    assert KEY not in good.output + bad.output


def test_check_notes_prices_of_long_ago(tmp_path: Path) -> None:
    old = card_file(tmp_path, ("one", "http://127.0.0.1:1/v1", "    priced_on: 2020-01-31\n"))
    assert "read on 2020-01-31" in run("check", old).stderr
    new = card_file(tmp_path, ("one", "http://127.0.0.1:1/v1", f"    priced_on: {date.today()}\n"))
    assert "note" not in run("check", new).output


def test_probe_of_a_good_pool(tmp_path: Path, serve: Callable[..., str]) -> None:
    url = serve()
    result = run("probe", card_file(tmp_path, ("small", url, ""), ("large", url, "")), "--json")
    assert result.exit_code == 0
    small, large = json.loads(result.stdout)
    assert small["reachable"]
    assert small["usage_reported"]
    assert small["price_plausible"]
    # 20 prompt tokens at 1 USD and 8 completion tokens at 3 USD a million
    assert small["cost_usd"] == pytest.approx(44e-6)
    assert large["latency_s"] >= 0.02


def test_calls_are_in_the_ledger_of_the_folder_of_runs_or_where_it_is_said(
    tmp_path: Path, serve: Callable[..., str]
) -> None:
    path = card_file(tmp_path, ("small", serve(), ""))
    assert run("probe", path).exit_code == 0
    measuring = ["measure", path, "--questions", question_file(tmp_path)]
    for _ in range(2):  # the second command makes new calls, because it measures the present state
        assert run(*measuring).exit_code == 0
    rows = costs("runs")
    assert [row["calls"] for row in rows] == [3, 3, 1]
    assert [row["cost_usd"] for row in rows] == pytest.approx([3 * 35e-6] * 2 + [44e-6])
    assert [row["run"].partition("-")[0] for row in rows] == ["measure", "measure", "probe"]
    assert run(*measuring, "--ledger", "other/calls.sqlite").exit_code == 0
    assert [row["calls"] for row in costs("other/calls.sqlite")] == [3]
    assert len(costs("runs")) == 3


def test_nothing_is_asked_where_nothing_can_be_recorded(tmp_path: Path, serve: Callable[..., str]) -> None:
    (tmp_path / "taken").touch()
    path = card_file(tmp_path, ("small", serve(), ""))
    for command in (["probe", path], ["measure", path, "--questions", question_file(tmp_path)]):
        result = run(*command, "--ledger", "taken/calls.sqlite")
        assert isinstance(result.exception, LedgerError)
        assert "taken/calls.sqlite" in str(result.exception)
        assert "make its folder writable" in str(result.exception)


def test_probe_tells_who_fails_and_why(tmp_path: Path, serve: Callable[..., str]) -> None:
    path = card_file(
        tmp_path,
        ("small", serve(), ""),
        ("large", serve(no_usage=1.0), ""),
        ("away", closed_port(), ""),
        ("keyless", "http://127.0.0.1:1/v1", "    api_key_env: A_KEY_THAT_IS_NOWHERE\n"),
    )
    result = run("probe", path, "--json", "--timeout-s", "2")
    assert result.exit_code == 1
    rows = {row["model"]: row for row in json.loads(result.stdout)}
    good = {name: (row["reachable"], row["usage_reported"]) for name, row in rows.items()}
    assert good == {"small": (True, True), "large": (True, False), "away": (False, False), "keyless": (False, False)}
    assert "broke" in rows["away"]["error"]
    assert "A_KEY_THAT_IS_NOWHERE" in rows["keyless"]["error"]
    assert "NO" in run("probe", path, "--timeout-s", "2").stdout


def test_measure_writes_what_it_found_and_keeps_the_rest(tmp_path: Path, serve: Callable[..., str]) -> None:
    url = serve()
    domains = "    domains: {kept: 0.25, colours: 0.9}  # from before\n"
    path = card_file(tmp_path, ("small", url, domains), ("large", url, "    latency_s: 9\n"))
    path.chmod(0o640)
    before = path.read_text()
    plain = run("measure", path, "--questions", question_file(tmp_path))
    assert plain.exit_code == 0
    assert path.read_text() == before
    assert "colours 0.50, numbers 1.00" in plain.stdout

    assert run("measure", path, "--questions", question_file(tmp_path), "--write").exit_code == 0
    small, large = load_cards(path)
    assert small.domains == {"kept": 0.25, "colours": 0.5, "numbers": 1.0}
    assert large.domains == {"colours": 0.5, "numbers": 1.0}
    assert 0.02 <= large.latency_s < 1
    assert large.measured_on == date.today()
    assert large.measured_questions == 3
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []
    kept = [line for line in before.splitlines() if "latency_s" not in line and "domains" not in line]
    after = path.read_text().splitlines()
    assert [line for line in after if line in kept] == kept
    assert "# from before" in path.read_text()


def test_measure_tells_the_cost_before_and_asks(tmp_path: Path, serve: Callable[..., str]) -> None:
    path = card_file(tmp_path, ("small", serve(), ""))
    dear = ["measure", path, "--questions", question_file(tmp_path), "--max-usd", "0.0001"]
    refused = run(*dear)
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert "3 questions to 1 candidates: at most 0.001" in refused.stderr
    assert run(*dear, "--yes").exit_code == 0
    assert run(*dear[:-1], "1", "--limit", "1", "--json").exit_code == 0


def test_failures_of_the_provider_are_not_wrong_answers(tmp_path: Path, serve: Callable[..., str]) -> None:
    spoilt = serve(empty_choices=1.0)
    path = card_file(tmp_path, ("small", serve(), ""), ("large", spoilt, "    domains: {colours: 0.7}\n"))
    result = run("measure", path, "--questions", question_file(tmp_path), "--write", "--json")
    assert result.exit_code == 1
    small, large = json.loads(result.stdout)
    assert small["answered"] == 3
    assert (large["answered"], large["failed"], large["accuracy"]) == (0, 3, {})
    assert "no choices" in large["errors"][0]
    # 3 questions of 20 prompt tokens at 1 USD and 5 completion tokens at 3 USD; failed calls are billed, too
    assert small["cost_usd"] == large["cost_usd"] == pytest.approx(3 * 35e-6)
    assert load_cards(path)[1].domains == {"colours": 0.7}


def test_a_shipped_pool_is_not_written_to(tmp_path: Path) -> None:
    result = run("measure", "local_vllm", "--questions", question_file(tmp_path), "--write")
    assert isinstance(result.exception, CardError)
    assert "copy it" in str(result.exception)


def test_a_file_that_can_not_be_written_back_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    path = card_file(tmp_path, ("small", "http://127.0.0.1:1/v1", "    latency_s: 1\n    latency_s: 2\n"))
    result = run("measure", path, "--questions", question_file(tmp_path), "--write")
    assert isinstance(result.exception, CardError)
    assert "duplicate key" in str(result.exception)


@pytest.mark.engine
def test_ctrl_c_leaves_the_card_file_as_it_was(tmp_path: Path, serve: Callable[..., str]) -> None:
    path = card_file(tmp_path, ("large", serve(latency_scale=1000.0), ""))
    before = path.read_text()
    command = [sys.executable, "-m", "cluster.cli", "pool", "measure", str(path), "--write"]
    measuring = subprocess.Popen(
        [*command, "--questions", str(question_file(tmp_path))],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert measuring.stderr is not None
    assert "at most" in measuring.stderr.readline()
    time.sleep(0.5)  # by then calls are usually in flight; an earlier stop must work, too
    measuring.send_signal(signal.SIGINT)
    _, told = measuring.communicate(timeout=20)
    assert measuring.returncode == 130
    assert "nothing was written" in told
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("reply", "answers", "right"),
    [
        ("It was the Eiffel Tower, I think.", ["eiffel tower"], True),
        ("In 1912.", ["191"], False),
        ("", ["x"], False),
        ("anything", ["the"], False),  # normalisation removes the whole answer
        ("Not sure: Bonn or Berlin?", ["Paris", "Berlin"], True),
    ],
)
def test_a_reply_is_right_where_an_answer_stands_in_it(reply: str, answers: list[str], right: bool) -> None:
    assert holds_answer(reply, answers) is right
