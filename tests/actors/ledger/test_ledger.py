"""The ledger, on SQLite and on a real PostgreSQL: nothing lost, nothing twice, exact sums, errors that explain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import PostgresServer, postgres_server
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from actors.ledger.database import FILE_NAME, connect, database_url, open_tables, passes, shown
from actors.ledger.ledger import CallEntry, CallPlace, Ledger, LedgerError, Settled, request_hash
from actors.ledger.rows import Operation, Withdraw, begin_of, settle_of

REPLY = Settled("ok", "Paris.", 12, 3, 0.000_001_5, False, 0.25, 1)


def entry(id_: str, episode: str = "e", index: int = 0, **fields: object) -> CallEntry:
    call = CallEntry(
        id_, CallPlace(1, episode, 0, index), "small", "host", "hash", '{"messages": []}', 0.01, time.time()
    )
    return replace(call, **fields)


def rows(url: str, what: str = "id, status") -> list[tuple[object, ...]]:
    """Reads the database directly, as another program would."""
    engine = create_engine(database_url(url))
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(f"SELECT {what} FROM ledger_calls ORDER BY id"))]
    engine.dispose()
    return found


async def test_an_entry_is_in_the_database_when_begin_returns_and_complete_when_settle_does(ledger_url: str) -> None:
    ledger = await Ledger.open(ledger_url, run="r")
    assert await ledger.begin(entry("a", started_at=1_700_000_000.25)) is None
    assert rows(ledger_url) == [("a", "open")]
    assert rows(ledger_url, "started_us, reserved_nano, request") == [
        (1_700_000_000_250_000, 10_000_000, '{"messages": []}')
    ]
    await ledger.settle("a", REPLY)
    what = "status, reply, prompt_tokens, completion_tokens, cost_nano, latency_s, attempts, error"
    assert rows(ledger_url, what) == [("ok", "Paris.", 12, 3, 1500, 0.25, 1, "")]
    await ledger.close()


async def test_a_place_with_a_reply_is_never_asked_again(ledger_url: str) -> None:
    first = await Ledger.open(ledger_url, run="r")
    refused = Settled("refused", "", 5, 0, 0.002, True, 0.1, 2, "content filter", True)
    await first.begin(entry("a"))
    await first.begin(entry("b", index=1))
    await first.settle("a", REPLY)
    await first.settle("b", refused)
    assert await first.begin(entry("c")) == REPLY
    await first.close()
    again = await Ledger.open(ledger_url, run="r")
    assert await again.begin(entry("d")) == REPLY
    assert await again.begin(entry("e", index=1)) == refused
    assert rows(ledger_url) == [("a", "ok"), ("b", "refused")]
    await again.close()


async def test_more_rows_are_written_at_once_than_one_statement_takes(ledger_url: str) -> None:
    count = 2500  # of 14 columns each; one statement of SQLite binds at most 32,766 values
    ledger = await Ledger.open(ledger_url, run="r")
    found = await asyncio.gather(*(ledger.begin(entry(f"c{n:04}", episode=f"e{n}")) for n in range(count)))
    assert found == [None] * count
    await asyncio.gather(*(ledger.settle(f"c{n:04}", replace(REPLY, attempts=n)) for n in range(count)))
    assert rows(ledger_url, "id, status, attempts") == [(f"c{n:04}", "ok", n) for n in range(count)]
    with pytest.raises(LedgerError, match="no open entry c0007"):
        await ledger.settle("c0007", REPLY)
    await ledger.close()


@pytest.mark.parametrize(
    "other",
    [
        entry("b", index=1),
        entry("b", episode="f"),
        entry("b", request_hash="other"),
        entry("b", place=CallPlace(2, "e", 0, 0)),
        entry("b", place=CallPlace(1, "e", 1, 0)),
    ],
)
async def test_another_place_or_request_is_another_call(tmp_path: Path, other: CallEntry) -> None:
    ledger = await Ledger.open(str(tmp_path), run="r")
    await ledger.begin(entry("a"))
    await ledger.settle("a", REPLY)
    assert await ledger.begin(other) is None
    await ledger.close()


async def test_a_call_outside_of_episodes_and_one_of_another_run_are_always_new(ledger_url: str) -> None:
    ledger = await Ledger.open(ledger_url, run="r")
    for id_ in "ab":
        assert await ledger.begin(entry(id_, episode="")) is None
        await ledger.settle(id_, REPLY)
    await ledger.begin(entry("c"))
    await ledger.settle("c", REPLY)
    other = await Ledger.open(ledger_url, run="s")
    assert await other.begin(entry("d")) is None
    assert [id_ for id_, _ in rows(ledger_url)] == ["a", "b", "c", "d"]
    await ledger.close()
    await other.close()


@pytest.mark.parametrize("status", ["timeout", "provider_error", "cancelled", "over_budget"])
async def test_a_place_where_a_call_failed_may_ask_again(tmp_path: Path, status: str) -> None:
    ledger = await Ledger.open(str(tmp_path), run="r")
    await ledger.begin(entry("a"))
    await ledger.settle("a", Settled(status, error="it broke"))
    assert await ledger.find("hash", entry("a").place) is None
    assert await ledger.begin(entry("b")) is None
    await ledger.settle("b", REPLY)
    assert await ledger.begin(entry("c")) == REPLY
    await ledger.close()
    assert rows(str(tmp_path)) == [("a", status), ("b", "ok")]


async def test_an_open_entry_of_a_process_that_is_gone_is_taken_over(ledger_url: str) -> None:
    gone = await Ledger.open(ledger_url, run="r")
    await gone.begin(entry("a", reserved_usd=0.5))
    restarted = await Ledger.open(ledger_url, run="r")
    assert await restarted.begin(entry("b", reserved_usd=0.25)) is None
    assert await restarted.spent_usd() == {"small": 0.25}
    await restarted.settle("b", REPLY)
    assert rows(ledger_url) == [("b", "ok")]
    with pytest.raises(LedgerError, match=r"no open entry a: .*taken over"):
        await gone.settle("a", REPLY)
    await gone.close()
    await restarted.close()


async def test_one_call_twice_at_once_is_two_entries_for_both_are_paid(ledger_url: str) -> None:
    ledger = await Ledger.open(ledger_url, run="r")
    assert await asyncio.gather(ledger.begin(entry("a")), ledger.begin(entry("b"))) == [None, None]
    assert await ledger.begin(entry("c")) is None
    await asyncio.gather(*(ledger.settle(id_, replace(REPLY, reply=id_)) for id_ in "abc"))
    assert (await ledger.begin(entry("d"))) == replace(REPLY, reply="a")
    assert await ledger.spent_usd() == {"small": 3 * REPLY.cost_usd}
    await ledger.close()


async def test_find_prefers_the_place_of_the_run_then_of_another_then_the_latest(ledger_url: str) -> None:
    mine, other = await Ledger.open(ledger_url, run="mine"), await Ledger.open(ledger_url, run="other")
    here, elsewhere = CallPlace(1, "e", 0, 0), CallPlace(1, "e", 0, 7)

    async def add(ledger: Ledger, id_: str, place: CallPlace, started_at: float) -> None:
        await ledger.begin(entry(id_, place=place, started_at=started_at))
        await ledger.settle(id_, replace(REPLY, reply=id_))

    async def found(place: CallPlace | None = None) -> str | None:
        settled = await mine.find("hash", place)
        return settled and settled.reply

    assert await found(here) is None
    await add(other, "old elsewhere", elsewhere, 100)
    assert await found(here) == await found() == "old elsewhere"
    await add(other, "its here", here, 50)
    await add(other, "new elsewhere", CallPlace(1, "e", 0, 8), 200)
    assert await found(here) == "its here"
    await add(mine, "my here", here, 10)
    assert await found(here) == "my here"
    assert await found() == await found(CallPlace(9, "", 0, 0)) == "new elsewhere"
    await mine.begin(entry("open", place=CallPlace(1, "e", 0, 9), started_at=300))
    assert await found() == "new elsewhere"
    await mine.close()
    await other.close()
    engine = create_engine(database_url(ledger_url))
    with engine.connect() as connection:
        counts = connection.execute(text("SELECT run, hits, misses FROM ledger_lookups")).all()
    engine.dispose()
    assert [tuple(row) for row in counts] == [("mine", 7, 1)]


async def test_money_is_summed_exactly_with_what_open_calls_reserve(ledger_url: str) -> None:
    ledger, other = await Ledger.open(ledger_url, run="r"), await Ledger.open(ledger_url, run="s")
    await asyncio.gather(*(ledger.begin(entry(f"a{number}", index=number, started_at=1000)) for number in range(300)))
    # In floats, 300 x 0.0001 is not 0.03.
    await asyncio.gather(*(ledger.settle(f"a{number}", replace(REPLY, cost_usd=0.0001)) for number in range(300)))
    await other.begin(entry("b", model="large", reserved_usd=1.5, started_at=2000))
    assert await ledger.spent_usd() == {"small": 0.03, "large": 1.5}
    assert await ledger.spent_usd(run="r") == {"small": 0.03}
    assert await ledger.spent_usd(since=2000) == {"large": 1.5}
    assert await ledger.spent_usd(since=2000, run="r") == {}
    await other.settle("b", Settled("timeout"))
    assert await ledger.spent_usd(run="s") == {"large": 0}
    await ledger.close()
    await other.close()


NASTY = "Zürich 東京 \x00 \ud800 ' \" \\ \n 🦊"


async def test_any_text_of_a_provider_is_kept(ledger_url: str) -> None:
    ledger = await Ledger.open(ledger_url, run="r")
    await ledger.begin(entry("a", request=NASTY))
    await ledger.begin(entry("b", index=1))
    await ledger.settle("a", replace(REPLY, reply=NASTY, error=NASTY))
    kept = NASTY.replace("\x00", "\ufffd").replace("\ud800", "?")
    found = await ledger.find("hash", entry("a").place)
    assert found == replace(REPLY, reply=kept, error=kept)
    assert rows(ledger_url, "request")[0] == (kept,)
    await ledger.close()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -0.01])
async def test_a_number_that_is_none_fails_its_own_call_alone(tmp_path: Path, number: float) -> None:
    ledger = await Ledger.open(str(tmp_path), run="r")
    outcomes = await asyncio.gather(
        ledger.begin(entry("a", reserved_usd=number)), ledger.begin(entry("b")), return_exceptions=True
    )
    assert isinstance(outcomes[0], LedgerError)
    assert "reserved_usd" in str(outcomes[0])
    assert outcomes[1] is None
    for field in ("cost_usd", "latency_s"):
        with pytest.raises(LedgerError, match=field):
            await ledger.settle("b", replace(REPLY, **{field: number}))
    await ledger.settle("b", REPLY)
    await ledger.close()


async def test_one_wrong_operation_does_not_harm_those_of_its_batch(ledger_url: str) -> None:
    ledger = await Ledger.open(ledger_url, run="r")
    await ledger.begin(entry("a"))
    outcomes = await asyncio.gather(
        ledger.settle("nobody", REPLY),
        ledger.settle("a", REPLY),
        ledger.begin(entry("b", index=1)),
        ledger.begin(entry("a", index=2)),  # its id is taken
        ledger.settle("a", REPLY),  # settled already
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [LedgerError, type(None), type(None), LedgerError, LedgerError]
    assert "no open entry nobody" in str(outcomes[0])
    assert rows(ledger_url) == [("a", "ok"), ("b", "open")]
    await ledger.close()


async def test_a_cancelled_begin_leaves_nothing_and_a_cancelled_settle_is_written(ledger_url: str) -> None:
    ledger = await Ledger.open(ledger_url, run="r")
    await ledger.begin(entry("a"))
    beginning = asyncio.create_task(ledger.begin(entry("b", index=1)))
    settling = asyncio.create_task(ledger.settle("a", REPLY))
    await asyncio.sleep(0)
    beginning.cancel()
    settling.cancel()
    await asyncio.gather(beginning, settling, return_exceptions=True)
    for _ in range(500):  # both are written only some time after the cancellation
        if (spent := await ledger.spent_usd()) == {"small": REPLY.cost_usd}:
            break
        await asyncio.sleep(0.02)
    assert spent == {"small": REPLY.cost_usd}
    assert await ledger.begin(entry("b", index=1)) is None
    await ledger.close()
    assert rows(ledger_url) == [("a", "ok"), ("b", "open")]


async def test_a_begin_that_is_cancelled_while_it_waits_for_a_lock_can_be_made_again(tmp_path: Path) -> None:
    ledger = await Ledger.open(str(tmp_path), run="r")
    holder = sqlite3.connect(tmp_path / FILE_NAME)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ledger.begin(entry("a")), 0.05)
    again = asyncio.create_task(ledger.begin(entry("a")))
    await asyncio.sleep(0.05)
    holder.rollback()
    holder.close()
    assert await again is None
    await ledger.settle("a", REPLY)
    await ledger.close()
    assert rows(str(tmp_path)) == [("a", "ok")]


async def test_close_writes_what_waits_and_then_refuses(tmp_path: Path) -> None:
    ledger = await Ledger.open(str(tmp_path), run="r")
    waiting = [asyncio.create_task(ledger.begin(entry(f"{number}", index=number))) for number in range(50)]
    await asyncio.sleep(0)
    await ledger.close()
    await ledger.close()
    assert await asyncio.gather(*waiting) == [None] * 50
    assert len(rows(str(tmp_path))) == 50
    for refused in (ledger.begin(entry("x")), ledger.settle("0", REPLY), ledger.find("hash")):
        with pytest.raises(LedgerError, match="closed"):
            await refused


WRITER = """
import asyncio, sys, time
from actors.ledger.ledger import CallEntry, Ledger, CallPlace, Settled

async def work(ledger, name, numbers):
    for number in numbers:
        place = CallPlace(0, "e", 0, number)
        call = CallEntry(f"{name}-{number}", place, "small", "host", "hash", "{}", 0.01, time.time())
        settled = await ledger.begin(call)
        print("begun", number, flush=True) if settled is None else print("found", number, flush=True)
        if settled is None:
            await asyncio.sleep(0.001)
            await ledger.settle(call.id, Settled("ok", f"reply {number}", cost_usd=0.001))
            print("settled", number, flush=True)

async def main(url, name, first, last):
    ledger = await Ledger.open(url, run="r")
    numbers = iter(range(int(first), int(last)))
    await asyncio.gather(*(work(ledger, name, numbers) for _ in range(16)))
    await ledger.close()

asyncio.run(main(*sys.argv[1:]))
"""


def start_writer(url: str, name: str, first: int, last: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, url, name, str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])


@pytest.mark.engine
def test_a_killed_process_loses_nothing_and_books_nothing_twice(ledger_url: str) -> None:
    writer = start_writer(ledger_url, "first", 0, 1_000_000)
    assert writer.stdout is not None
    said = [writer.stdout.readline().split() for _ in range(400)]
    os.kill(writer.pid, signal.SIGKILL)
    said += [line.split() for line in writer.stdout.read().splitlines() if len(line.split()) == 2]
    writer.wait(30)
    begun = {int(number) for what, number in said if what == "begun"}
    settled = {int(number) for what, number in said if what == "settled"}
    kept = {int(str(id_).split("-")[1]): status for id_, status in rows(ledger_url)}
    assert begun <= kept.keys()
    assert all(kept[number] == "ok" for number in settled)
    assert "open" in kept.values()

    last = max(kept) + 20
    with start_writer(ledger_url, "second", 0, last + 1) as again:
        output, _ = again.communicate(timeout=60)
    assert again.returncode == 0
    found = {int(line.split()[1]) for line in output.splitlines() if line.startswith("found")}
    assert found == {number for number, status in kept.items() if status == "ok"}
    assert len(rows(ledger_url)) == last + 1
    assert {status for _, status in rows(ledger_url)} == {"ok"}
    assert sum(cost for (cost,) in rows(ledger_url, "cost_nano")) == (last + 1) * 1_000_000


@pytest.mark.engine
def test_several_processes_make_and_write_one_ledger_at_once(ledger_url: str) -> None:
    writers = [start_writer(ledger_url, f"w{number}", number * 200, (number + 1) * 200) for number in range(4)]
    for writer in writers:
        writer.communicate(timeout=100)
    assert [writer.returncode for writer in writers] == [0] * 4
    assert len(rows(ledger_url)) == 800
    assert {status for _, status in rows(ledger_url)} == {"ok"}


@pytest.mark.engine
async def test_calls_at_once_share_their_transactions(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = await Ledger.open(ledger_url, run="r")
    write, batches = ledger._store.write, list[int]()

    def counted(batch: Sequence[Operation]) -> list[Settled | LedgerError | None]:
        batches.append(len(batch))
        return write(batch)

    monkeypatch.setattr(ledger._store, "write", counted)
    numbers = iter(range(3000))

    async def work() -> None:
        for number in numbers:
            assert await ledger.begin(entry(f"{number}", index=number, request="x" * 1000)) is None
            await ledger.settle(f"{number}", REPLY)

    await asyncio.gather(*(work() for _ in range(256)))
    await ledger.close()
    assert sum(batches) == 6000
    assert len(batches) < 600


async def test_a_newer_ledger_is_refused(ledger_url: str) -> None:
    await (await Ledger.open(ledger_url, run="r")).close()
    engine = create_engine(database_url(ledger_url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE ledger_schema SET version = 99"))
    engine.dispose()
    with pytest.raises(LedgerError, match=r"schema version 99, .* up to 1: use the newer router-r1"):
        await Ledger.open(ledger_url, run="r")


def test_a_database_without_a_ledger_is_told_from_one(ledger_url: str) -> None:
    with pytest.raises(LedgerError, match="holds no ledger"):
        open_tables(connect(database_url(ledger_url)), create=False)


async def test_a_locked_file_names_itself_and_the_remedy(tmp_path: Path) -> None:
    ledger = await Ledger.open(str(tmp_path), run="r", busy_timeout_s=0.1)
    holder = sqlite3.connect(tmp_path / FILE_NAME)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match=r"ledger.sqlite is locked by another process .*\(`fuser .*ledger.sqlite`"):
        await ledger.begin(entry("a"))
    assert await ledger.find("hash") is None  # readers don't wait for writers
    holder.rollback()
    holder.close()
    assert await ledger.begin(entry("a")) is None
    await ledger.close()


async def test_a_ledger_waits_for_a_lock_that_is_let_go(tmp_path: Path) -> None:
    ledger = await Ledger.open(str(tmp_path), run="r")
    holder = sqlite3.connect(tmp_path / FILE_NAME)
    holder.execute("BEGIN IMMEDIATE")
    waiting = [asyncio.create_task(ledger.begin(entry(f"{number}", index=number))) for number in range(3)]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in waiting)
    holder.rollback()
    assert await asyncio.gather(*waiting) == [None] * 3
    holder.close()
    await ledger.close()


async def test_what_breaks_in_the_writer_reaches_everyone_who_waits(tmp_path: Path) -> None:
    ledger = await Ledger.open(str(tmp_path), run="r")
    with sqlite3.connect(tmp_path / FILE_NAME) as vandal:
        vandal.execute("ALTER TABLE ledger_calls RENAME TO gone")
    outcomes = await asyncio.gather(
        *(ledger.begin(entry(f"{number}", index=number)) for number in range(20)), return_exceptions=True
    )
    assert all(isinstance(outcome, LedgerError) and "ledger_calls" in str(outcome) for outcome in outcomes)
    with pytest.raises(LedgerError, match=FILE_NAME):
        await ledger.find("hash")
    vandal.execute("ALTER TABLE gone RENAME TO ledger_calls")
    assert await ledger.begin(entry("a")) is None
    vandal.close()
    await ledger.close()


FULL_DISK = """
import asyncio, resource, signal, sys, time
from actors.ledger.ledger import CallEntry, Ledger, LedgerError, CallPlace

async def main(folder):
    ledger = await Ledger.open(folder, run="r")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    for number in range(100):
        place = CallPlace(0, "e", 0, number)
        call = CallEntry(f"{number}", place, "m", "host", "hash", "x" * 100_000, 0.01, time.time())
        await ledger.begin(call)

try:
    asyncio.run(main(sys.argv[1]))
except LedgerError as error:
    print(error)
"""


def test_a_file_that_cannot_grow_is_told_of(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3])
    assert str(tmp_path / FILE_NAME) in done.stdout, done.stderr
    assert "full" in done.stdout


async def test_paths_that_hold_no_ledger(tmp_path: Path) -> None:
    noise = tmp_path / "noise.sqlite"
    noise.write_bytes(b"not a database at all " * 100)
    with pytest.raises(LedgerError, match=r"noise.sqlite is not a ledger"):
        await Ledger.open(str(noise), run="r")
    with pytest.raises(LedgerError, match="its folder must exist"):
        await Ledger.open(str(tmp_path / "nowhere" / "ledger.sqlite"), run="r")


async def test_a_postgresql_that_does_not_answer_is_named_without_its_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(LedgerError, match="can't be reached") as caught:
        await Ledger.open(f"postgresql://me:tops3cret@127.0.0.1:{port}/calls", run="r")
    assert f"me:***@127.0.0.1:{port}/calls" in str(caught.value)
    assert "tops3cret" not in str(caught.value)


@pytest.mark.engine
async def test_postgresql_errors_explain_themselves(postgres: PostgresServer) -> None:
    with pytest.raises(LedgerError, match=r'"nowhere" does not exist.*`createdb`'):
        await Ledger.open(postgres.url("nowhere"), run="r")
    with pytest.raises(LedgerError, match=r'"stranger" does not exist.*PGPASSWORD') as caught:
        await Ledger.open(postgres.url().replace("ledger@", "stranger:tops3cret@"), run="r")
    assert "tops3cret" not in str(caught.value)


async def test_calls_given_up_before_they_are_written_make_room_for_others(ledger_url: str) -> None:
    """All come in one batch, because the first transaction holds them up."""
    ledger = await Ledger.open(ledger_url, run="r")
    store = ledger._store
    begin, again = begin_of(entry("a"), "r"), begin_of(entry("b"), "r")
    assert store.write([begin]) == [None]
    # In the same batch a call is made again at its own place, and another call is begun and withdrawn.
    gone = begin_of(entry("c", index=1), "r")
    assert store.write([gone, Withdraw("a"), again, Withdraw("c")]) == [None] * 4
    assert rows(ledger_url) == [("b", "open")]
    assert store.write([settle_of("b", REPLY)]) == [None]
    assert await ledger.begin(entry("d")) == REPLY
    await ledger.close()


class Forgetful:
    """An engine whose database hangs up before it commits, or after the commit but before its answer."""

    def __init__(self, engine: Engine, state: str, commits: bool) -> None:
        self.engine = engine
        self.state, self.commits = state, commits
        self.failed = 0

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with self.engine.begin() as connection:
            yield connection
            if self.failed == 0 and not self.commits:
                self.fail()
        if self.failed == 0:
            self.fail()

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        if self.failed == 0:
            self.fail()
        with self.engine.connect() as connection:
            yield connection

    def fail(self) -> None:
        self.failed += 1
        error = psycopg.OperationalError("server closed the connection")
        raise OperationalError("COMMIT", None, error, connection_invalidated=self.state == "lost")


@pytest.mark.engine
@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("what", ["begin", "settle", "read"])
async def test_what_a_connection_that_broke_left_open_is_written_once(
    postgres: PostgresServer, what: str, commits: bool
) -> None:
    url = postgres.new_database()
    ledger = await Ledger.open(url, run="r")
    await ledger.begin(entry("a", episode=""))
    flaky = Forgetful(ledger._store._engine, "lost", commits)
    ledger._store._engine = flaky  # type: ignore[assignment]
    if what == "begin":
        assert await ledger.begin(entry("b", episode="")) is None
        assert await ledger.begin(entry("c")) is None
        await ledger.settle("b", REPLY)
        assert [id_ for id_, _ in rows(url)] == ["a", "b", "c"]
    elif what == "settle":
        await ledger.settle("a", REPLY)
        assert rows(url) == [("a", "ok")]
        with pytest.raises(LedgerError, match="settled already"):
            await ledger.settle("a", REPLY)
    else:
        assert await ledger.spent_usd() == {"small": 0.01}
    assert flaky.failed == 1
    ledger._store._engine = flaky.engine
    await ledger.close()


@pytest.mark.engine
async def test_a_postgresql_that_starts_anew_in_mid_run_loses_nothing() -> None:
    with postgres_server() as server:
        url = server.new_database()
        ledger = await Ledger.open(url, run="r")
        impatient = await Ledger.open(url, run="s", busy_timeout_s=0.5)
        numbers = iter(range(100_000))
        stop = False
        written: list[str] = []

        async def work() -> None:
            while not stop:
                id_ = f"{next(numbers):06d}"
                assert await ledger.begin(entry(id_, index=int(id_))) is None
                assert await ledger.find(f"no {id_}") is None
                await ledger.settle(id_, REPLY)
                written.append(id_)

        workers = asyncio.gather(*(work() for _ in range(8)))
        while not written:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.to_thread(server.stop)
        before = len(written)
        started = time.monotonic()
        with pytest.raises(LedgerError, match="can't be reached"):
            await impatient.begin(entry("x"))
        assert time.monotonic() - started < 20
        await asyncio.to_thread(server.start)
        await asyncio.sleep(1.5)
        stop = True
        await asyncio.wait_for(workers, 30)
        await ledger.close()
        await impatient.close()
        assert 0 < before < len(written)
        assert rows(url) == [(id_, "ok") for id_ in sorted(written)]


def test_only_errors_that_pass_are_tried_again() -> None:
    url = database_url("postgresql://me@host/calls")
    for state, again in [("57P01", True), ("40001", True), ("40P01", True), ("28P01", False), ("42P01", False)]:
        error = psycopg.errors.lookup(state)("what it says")
        assert passes(DBAPIError.instance("SELECT", None, error, psycopg.Error), url) is again, state


@pytest.mark.engine
async def test_a_postgresql_that_hung_up_is_connected_to_again(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    ledger = await Ledger.open(url, run="r")
    await ledger.begin(entry("a"))
    name = make_url(url).database
    engine = create_engine(database_url(postgres.url()), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        end = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
        assert connection.execute(end, {"name": name}).all()
    engine.dispose()
    await ledger.settle("a", REPLY)
    assert rows(url) == [("a", "ok")]
    await ledger.close()


@pytest.mark.parametrize("url", ["mysql://me:tops3cret@host/x", "postgresql://me:tops3cret@host:port/x", "sqlite://"])
def test_urls_that_are_refused_do_not_show_their_password(url: str) -> None:
    with pytest.raises(LedgerError) as caught:
        database_url(url)
    assert "tops3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_folder_a_file_and_a_url_name_the_same_ledger(tmp_path: Path) -> None:
    path = str(tmp_path / FILE_NAME)
    assert {shown(database_url(name)) for name in (tmp_path, str(tmp_path), path, f"sqlite:///{path}")} == {path}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=3), max_size=3)
SAMPLING = st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4)


@settings(max_examples=30)
@given(MESSAGES, SAMPLING)
def test_a_request_hash_knows_content_and_not_the_order_of_keys(
    messages: list[dict[str, object]], sampling: dict[str, object]
) -> None:
    shuffled = dict(reversed(sampling.items()))
    one = request_hash("m", "v1", messages, sampling)
    assert one == request_hash("m", "v1", json.loads(json.dumps(messages)), shuffled)
    assert one != request_hash("m", "v2", messages, sampling)
    assert one != request_hash("m", "v1", [*messages, {}], sampling)
    assert one != request_hash("m", "v1", messages, {**sampling, "a new key": 1})


def test_a_request_hash_is_the_same_in_every_process() -> None:
    known = "1ebbc7dd51a0002f90b8c7c8e60ff0e5e592c01ee5955e4b09dd638f763f302a"
    assert request_hash("m", "v1", [{"role": "user", "content": "é"}], {"temperature": 0.5}) == known
