"""The tables of the ledger: its calls, its counts of look-ups, and its version."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, MetaData, Table, Text

VERSION = 1
NANO = 1_000_000_000  # in a dollar
MICRO = 1_000_000  # in a second

metadata = MetaData()

schema = Table("ledger_schema", metadata, Column("version", Integer, primary_key=True))

# Money is in billionths of a dollar, and times in microseconds since 1970, because sums of integers are exact.
# The long texts come last, so that SQLite reads the others without them.
calls = Table(
    "ledger_calls",
    metadata,
    Column("id", Text, primary_key=True),
    Column("claim", Text),  # place and request hash of the call that holds this place; otherwise null
    Column("run", Text, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("episode", Text, nullable=False),
    Column("turn", BigInteger, nullable=False),
    Column("call_index", BigInteger, nullable=False),
    Column("model", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("request_hash", Text, nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("reserved_nano", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("settled_us", BigInteger),
    Column("cost_nano", BigInteger),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("estimated", Boolean),
    Column("hedged", Boolean),
    Column("attempts", BigInteger),
    Column("latency_s", Double),
    Column("request", Text),  # null once pruned, as is the reply
    Column("reply", Text),
    Column("error", Text),
)
# Only one call of a run holds a place; nulls never count as equal.
Index("ledger_calls_claim", calls.c.claim, calls.c.run, unique=True)
Index("ledger_calls_hash", calls.c.request_hash, calls.c.started_us)
# Holds every column that sums of money need, so that they read no rows.
Index(
    "ledger_calls_spend",
    calls.c.run,
    calls.c.started_us,
    calls.c.model,
    calls.c.step,
    calls.c.status,
    calls.c.reserved_nano,
    calls.c.cost_nano,
)

lookups = Table(
    "ledger_lookups",
    metadata,
    Column("run", Text, primary_key=True),
    Column("hits", BigInteger, nullable=False),
    Column("misses", BigInteger, nullable=False),
)
