"""Exports a ledger's calls to a file: Parquet, CSV or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from sqlalchemy import Connection, select

from actors.ledger.entry import LedgerError
from actors.ledger.schema import NANO, calls
from actors.whole_files import replacing

_TIME = pa.timestamp("us", tz="UTC")
_SCHEMA = pa.schema(
    {
        **dict.fromkeys(("id", "run"), pa.string()),
        "step": pa.int64(),
        "episode": pa.string(),
        **dict.fromkeys(("turn", "call_index"), pa.int64()),
        **dict.fromkeys(("model", "endpoint", "status"), pa.string()),
        **dict.fromkeys(("started_at", "settled_at"), _TIME),
        **dict.fromkeys(("latency_s", "cost_usd", "reserved_usd"), pa.float64()),
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "attempts"), pa.int64()),
        **dict.fromkeys(("estimated", "hedged"), pa.bool_()),
        **dict.fromkeys(("request_hash", "request", "reply", "error"), pa.string()),
    }
)
_CHUNK = 5_000  # rows in memory
_EPOCH = datetime.fromtimestamp(0, UTC)

Rows = list[dict[str, Any]]


def export(connection: Connection, path: Path, run: str | None = None) -> int:
    """Write all calls, or those of `run`, in the order of their start; returns their number.

    The file appears once it is complete. Times are in UTC, money in dollars, latency in seconds; the fields that an
    open call does not have yet are null.

    Raises:
        LedgerError: the format is not known, or the file can't be written.
    """
    if path.suffix not in _WRITERS:
        raise LedgerError(f"{path}: unknown format; give the file one of the endings {', '.join(_WRITERS)}")
    query = select(calls).order_by(calls.c.started_us, calls.c.id)
    if run is not None:
        query = query.where(calls.c.run == run)
    found = connection.execution_options(yield_per=_CHUNK).execute(query)
    chunks = ([_exported(row._mapping) for row in part] for part in found.partitions())
    try:
        with replacing(path) as unfinished:
            return _WRITERS[path.suffix](unfinished, chunks)
    except OSError as error:
        raise LedgerError(f"{path} can't be written: {error}; its folder must exist and have space") from error


def _exported(row: Any) -> dict[str, Any]:
    values = {name: row[name] for name in _SCHEMA.names if name in row}
    for name in ("started", "settled"):
        moment = row[f"{name}_us"]
        values[f"{name}_at"] = None if moment is None else _EPOCH + timedelta(microseconds=moment)
    for name in ("cost", "reserved"):
        nano = row[f"{name}_nano"]
        values[f"{name}_usd"] = None if nano is None else nano / NANO
    return values


def _write_parquet(path: Path, chunks: Iterable[Rows]) -> int:
    with pa.parquet.ParquetWriter(path, _SCHEMA) as writer:
        return _write_tables(writer, chunks)


def _write_csv(path: Path, chunks: Iterable[Rows]) -> int:
    with pa.csv.CSVWriter(path, _SCHEMA) as writer:
        return _write_tables(writer, chunks)


def _write_tables(writer: Any, chunks: Iterable[Rows]) -> int:
    count = 0
    for rows in chunks:
        writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
        count += len(rows)
    return count


def _write_jsonl(path: Path, chunks: Iterable[Rows]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for rows in chunks:
            for row in rows:
                ordered = {name: row[name] for name in _SCHEMA.names}
                file.write(json.dumps(ordered, ensure_ascii=False, default=datetime.isoformat) + "\n")
            count += len(rows)
    return count


_WRITERS: dict[str, Callable[[Path, Iterable[Rows]], int]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}
