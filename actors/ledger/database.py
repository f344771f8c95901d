"""The ledger's database, a SQLite file or PostgreSQL: how it is opened, and what its errors mean."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Text,
    bindparam,
    cast,
    column,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.schema import CreateIndex, CreateTable

from actors.json_bytes import encode
from actors.ledger.entry import LedgerError
from actors.ledger.schema import VERSION, metadata, schema

FILE_NAME = "ledger.sqlite"
BUSY_TIMEOUT_S = 30.0  # for another process's transaction; those of callers take milliseconds
_CONNECT_TIMEOUT_S = 10
_QUERY_TIMEOUT_S = 60.0  # for one statement of PostgreSQL
_REPORT_TIMEOUT_S = 3600.0  # the same, for reports on and exports of millions of calls
_SQLITE_NEEDED = (3, 33, 0)  # for UPDATE … FROM
# Temporary errors: serialization failure, deadlock, and a server that shuts down, crashed, or starts.
_PASSING_STATES = ("40001", "40P01", "57P01", "57P02", "57P03")
_CREATION_LOCK = 0x52314C47  # our number for PostgreSQL's advisory lock, held while tables are made


def database_url(where: str | Path) -> URL:
    """The database of a run folder, a ledger file or a URL (`sqlite:///…` or `postgresql://…`).

    Raises:
        LedgerError: the URL can't be read, or names another kind of database.
    """
    text = str(where)
    if "://" not in text:
        path = Path(text)
        return URL.create("sqlite", database=str(path / FILE_NAME if path.is_dir() else path))
    kind = text.split("://")[0].split("+")[0]
    if kind not in ("sqlite", "postgresql", "postgres"):
        raise LedgerError(f"a ledger is kept in sqlite or postgresql, not in {kind!r}: give a URL of one of them")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # their messages may repeat the URL and its credentials
        raise LedgerError(
            f"the ledger's {kind} URL can't be read; it is written {kind}://USER@HOST:PORT/DATABASE, with "
            "characters such as @ or / in its parts percent-encoded"
        ) from None
    if kind == "sqlite" and not url.database:
        raise LedgerError("the ledger's sqlite URL names no file; write sqlite:///FOLDER/ledger.sqlite")
    return url.set(drivername="sqlite" if kind == "sqlite" else "postgresql+psycopg")


def absolute(where: str) -> str:
    """The same ledger, named so that processes with other working directories find it."""
    if "://" not in where:
        return str(Path(where).absolute())
    url = database_url(where)
    if url.get_backend_name() != "sqlite":
        return where
    return f"sqlite:///{Path(str(url.database)).absolute()}"


def prepare_ledger(where: str | Path) -> str:
    """A ledger's file by its absolute path, in a folder that is there now; or a URL as it is.

    Raises:
        LedgerError: the folder can't be made.
    """
    if "://" in str(where):
        return str(where)
    file = Path(where).absolute()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(f"can't make ledger {file} ({error}); make its folder writable, or name another") from error
    return str(file)


def check_file(url: URL) -> None:
    """Check that a SQLite file exists. Whether a PostgreSQL database holds a ledger is checked when it is opened.

    Raises:
        LedgerError: there is no such file.
    """
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        raise LedgerError(f"there is no ledger at {shown(url)}: give the folder of a run that kept one, or its URL")


def connect(url: URL, *, busy_timeout_s: float = BUSY_TIMEOUT_S, query_timeout_s: float = _QUERY_TIMEOUT_S) -> Engine:
    """An SQLAlchemy engine for the database, with a deadline for every wait; it opens no connection yet.

    Raises:
        LedgerError: the SQLite that Python was built with is too old.
    """
    if url.get_backend_name() == "sqlite":
        if sqlite3.sqlite_version_info < _SQLITE_NEEDED:
            raise LedgerError(
                f"this Python's SQLite is {sqlite3.sqlite_version}, and the ledger needs "
                f"{'.'.join(map(str, _SQLITE_NEEDED))}: use a Python built with a newer one, or a PostgreSQL URL"
            )
        engine = create_engine(url, hide_parameters=True, connect_args={"timeout": busy_timeout_s})
        event.listen(engine, "connect", _set_pragmas)
        return engine
    wait_ms = int(busy_timeout_s * 1000)
    settings = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "tcp_user_timeout": wait_ms,
        "options": f"-c lock_timeout={wait_ms} -c statement_timeout={int(query_timeout_s * 1000)}",
    }
    return create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=settings)


def open_tables(engine: Engine, *, create: bool, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
    """Make missing tables if `create`, then check the version of the tables.

    Raises:
        LedgerError: the database can't be reached or read, holds no ledger, or holds one of a newer version.
    """
    try:
        if create and engine.dialect.name == "sqlite":
            _enter_wal(engine, busy_timeout_s)
        with engine.begin() as connection:
            if create:
                _create_tables(connection)
            found = connection.scalar(select(func.max(schema.c.version))) if _is_ledger(connection) else None
    except DBAPIError as error:
        raise explain(error, engine.url) from error
    if found is None:
        raise LedgerError(f"{shown(engine.url)} holds no ledger: give the run folder or the URL of one")
    if found > VERSION:
        raise LedgerError(
            f"the ledger {shown(engine.url)} has schema version {found}, and this router-r1 knows versions up to "
            f"{VERSION}: use the newer router-r1 that made it, or another ledger"
        )


@contextmanager
def existing_ledger(where: str | Path) -> Iterator[Connection]:
    """A connection to the ledger of a run folder, a file or a URL, closed at the end; never makes a ledger.

    Raises:
        LedgerError: there is no ledger, it can't be read or written, or it has a newer version.
    """
    url = database_url(where)
    check_file(url)
    engine = connect(url, query_timeout_s=_REPORT_TIMEOUT_S)
    try:
        open_tables(engine, create=False)
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise explain(error, url) from error
    finally:
        engine.dispose()


def rows_of(dialect: str, columns: Mapping[str, Any]) -> dict[str, ColumnElement[Any]]:
    """SQL for the `columns` (name to type) of the JSON array of objects that is bound to `rows`.

    With it, one statement takes a batch of any size. The DBAPI's executemany would take and release the GIL for each
    row, and a busy event loop releases the GIL only every few milliseconds.
    """
    if dialect == "sqlite":
        value = func.json_each(bindparam("rows", type_=Text)).table_valued("value").c.value
        return {name: func.json_extract(value, f"$.{name}", type_=kind) for name, kind in columns.items()}
    typed = [column(name, kind) for name, kind in columns.items()]
    source = cast(bindparam("rows", type_=Text), postgresql.JSON)
    table = func.json_to_recordset(source).table_valued(*typed, name="rows").render_derived(with_types=True)
    return {name: table.c[name] for name in columns}


def json_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as the JSON text that `rows_of` reads."""
    return encode(list(rows)).decode()


def shown(url: URL) -> str:
    """The database's name for messages, always without its password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.set(drivername="postgresql", query={}).render_as_string(hide_password=True)


def explain(error: DBAPIError, url: URL) -> LedgerError:
    """An error that tells the user what a database's error means, and the remedy."""
    where = shown(url)
    if url.get_backend_name() == "sqlite":
        return LedgerError(_explain_sqlite(error, where))
    return LedgerError(_explain_postgresql(error, where).replace(url.password or "\0", "***"))


def passes(error: DBAPIError, url: URL) -> bool:
    """True if a database's error is temporary: the database restarts, or lets another transaction go first."""
    if url.get_backend_name() == "sqlite":
        return getattr(error.orig, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
    state = getattr(error.orig, "sqlstate", None) or ""  # a refused or broken connection has none
    lost = error.connection_invalidated or (isinstance(error, OperationalError) and not state)
    return lost or state.startswith("08") or state in _PASSING_STATES


def _explain_sqlite(error: DBAPIError, path: str) -> str:
    name = getattr(error.orig, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return (
            f"the ledger {path} is locked by another process that did not release it in time; end the processes that "
            f"hold it (`fuser {path}` lists them), or give this run a ledger of its own"
        )
    if name == "SQLITE_FULL":
        return (
            f"the disk of the ledger {path} is full; free some space, or shorten the ledger with "
            "`router-r1 ledger prune`"
        )
    if name in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
        return f"{path} is not a ledger, or is damaged ({error.orig}); move it away, or name another file"
    if name.startswith("SQLITE_CANTOPEN"):
        return f"the ledger {path} can't be opened ({error.orig}); its folder must exist and let you write"
    if name.startswith("SQLITE_READONLY"):
        return f"the ledger {path} is read-only ({error.orig}); its file and its folder must let you write"
    if name.startswith("SQLITE_IOERR"):
        return f"the ledger {path} can't be read or written ({error.orig}); check that its disk is sound and not full"
    return f"the ledger {path}: {error.orig}"


def _explain_postgresql(error: DBAPIError, where: str) -> str:
    state = getattr(error.orig, "sqlstate", None) or ""
    what = " ".join(str(error.orig).split())
    if error.connection_invalidated or not state:  # a connection that was refused has no code
        return (
            f"the ledger's PostgreSQL {where} can't be reached ({what}); check its address and that it runs, the "
            "user and PGPASSWORD or ~/.pgpass, and that the database is there (`createdb`)"
        )
    if state == "53100":
        return f"the disk of the ledger's PostgreSQL {where} is full; free some space, or `router-r1 ledger prune`"
    if state in ("55P03", "57014"):
        return f"the ledger's PostgreSQL {where} was locked, or too slow; see pg_locks and its load ({what})"
    return f"the ledger's PostgreSQL {where}: {what}"


def _set_pragmas(connection: Any, _record: Any) -> None:
    # FULL syncs every commit. NORMAL does not, so a power loss would erase calls that were paid for.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {1 << 26}")


def _enter_wal(engine: Engine, busy_timeout_s: float) -> None:
    """Make the file keep a write-ahead log, so that readers don't wait for writers; the setting is stored in it."""
    deadline = time.monotonic() + busy_timeout_s
    while True:
        try:
            with engine.connect() as connection:
                connection.execute(text("PRAGMA auto_vacuum = INCREMENTAL"))  # so that prune can give space back
                connection.execute(text("PRAGMA journal_mode = WAL"))
            return
        except DBAPIError as error:
            # SQLite's own timeout does not cover another process that makes the same change.
            busy = getattr(error.orig, "sqlite_errorname", "").startswith("SQLITE_BUSY")
            if not busy or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _is_ledger(connection: Connection) -> bool:
    return inspect(connection).has_table(schema.name)


def _create_tables(connection: Connection) -> None:
    """Make missing tables; a lock makes this safe for several processes at once."""
    if _is_ledger(connection):
        return
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(select(func.pg_advisory_xact_lock(_CREATION_LOCK)))
    for table in metadata.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            connection.execute(CreateIndex(index, if_not_exists=True))
    if connection.scalar(select(func.max(schema.c.version))) is None:
        connection.execute(insert(schema).values(version=VERSION))
