"""Reports on a ledger's calls: counts, dollars, latencies and hit rates, by model, run, step and day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, case, func, select

from actors.ledger.entry import FINAL, OPEN, LedgerError
from actors.ledger.schema import MICRO, NANO, calls, lookups

KEYS = ("model", "run", "step", "day")
QUANTILES = (0.5, 0.9, 0.99)
DAY_US = 86_400 * MICRO

cost_nano = case((calls.c.status == OPEN, 0), else_=calls.c.cost_nano)
_RESERVED_NANO = case((calls.c.status == OPEN, calls.c.reserved_nano), else_=0)


def check_run(connection: Connection, run: str) -> None:
    """Check that the ledger has the run.

    Raises:
        LedgerError: it has no run of this name; the message lists its runs.
    """
    runs = connection.scalars(select(calls.c.run).union(select(lookups.c.run)).order_by("run")).all()
    if run not in runs:
        raise LedgerError(f"the ledger has no run {run!r}; it has {', '.join(runs) or 'none'}")


def spend(connection: Connection, by: Sequence[str], run: str | None = None) -> list[dict[str, Any]]:
    """Calls and dollars by any of `KEYS`, ordered by them; days are in UTC.

    `cost_usd` is the cost of settled calls, `reserved_usd` the most that open calls can cost.
    """
    keys = [_key(name) for name in by]
    totals = [
        func.count().label("calls"),
        func.coalesce(func.sum(cost_nano), 0).label("cost"),
        func.coalesce(func.sum(_RESERVED_NANO), 0).label("reserved"),
    ]
    query = select(*keys, *totals).group_by(*keys).order_by(*keys)
    return [
        {name: _day(row[at]) if name == "day" else row[at] for at, name in enumerate(by)}
        | {"calls": row.calls, "cost_usd": int(row.cost) / NANO, "reserved_usd": int(row.reserved) / NANO}
        for row in connection.execute(_of_run(query, run))
    ]


def models(connection: Connection, run: str | None = None) -> list[dict[str, Any]]:
    """By model: calls, how many failed, tokens, attempts, dollars, and the latency of calls with a reply."""
    query = select(
        calls.c.model,
        func.count().label("calls"),
        func.sum(case((calls.c.status == OPEN, 1), else_=0)).label("open"),
        func.sum(case((calls.c.status.in_(FINAL), 1), else_=0)).label("replies"),
        func.sum(cost_nano).label("cost"),
        *(func.coalesce(func.sum(calls.c[name]), 0).label(name) for name in _SUMMED),
        *(func.sum(case((calls.c[name], 1), else_=0)).label(name) for name in ("estimated", "hedged")),
    )
    found = connection.execute(_of_run(query.group_by(calls.c.model).order_by(calls.c.model), run)).all()
    latencies = _latencies(connection, run)
    return [
        {
            "model": row.model,
            "calls": row.calls,
            "open": int(row.open),
            "failure_rate": _share(row.calls - int(row.open) - int(row.replies), row.calls - int(row.open)),
            "attempts_per_call": _share(int(row.attempts), row.calls - int(row.open)),
            "hedged": int(row.hedged),
            "estimated": int(row.estimated),
            "prompt_tokens": int(row.prompt_tokens),
            "completion_tokens": int(row.completion_tokens),
            "cost_usd": int(row.cost) / NANO,
            **_quantiles(latencies.get(row.model, [])),
        }
        for row in found
    ]


def statuses(connection: Connection, run: str | None = None) -> dict[str, int]:
    """Calls by status; an open call is under way, or its process was killed."""
    query = select(calls.c.status, func.count().label("calls")).group_by(calls.c.status).order_by(calls.c.status)
    return {row.status: row.calls for row in connection.execute(_of_run(query, run))}


def hit_rate(connection: Connection, run: str | None = None) -> dict[str, Any]:
    """Look-ups of the modes `cache` and `replay`: hits, misses, and the share of hits (None without look-ups)."""
    query = select(
        func.coalesce(func.sum(lookups.c.hits), 0).label("hits"),
        func.coalesce(func.sum(lookups.c.misses), 0).label("misses"),
    )
    row = connection.execute(query if run is None else query.where(lookups.c.run == run)).one()
    hits, misses = int(row.hits), int(row.misses)
    return {"hits": hits, "misses": misses, "hit_rate": _share(hits, hits + misses)}


_SUMMED = ("attempts", "prompt_tokens", "completion_tokens")


def _latencies(connection: Connection, run: str | None) -> dict[str, list[float]]:
    query = select(calls.c.model, calls.c.latency_s).where(calls.c.status.in_(FINAL))
    found: dict[str, list[float]] = defaultdict(list)
    for model, latency_s in connection.execute(_of_run(query, run)):
        found[model].append(latency_s)
    return found


def _quantiles(latencies_s: Sequence[float]) -> dict[str, float | None]:
    names = [f"latency_p{quantile * 100:g}_s" for quantile in QUANTILES]
    if not latencies_s:
        return dict.fromkeys(names)
    return dict(zip(names, map(float, np.quantile(latencies_s, QUANTILES)), strict=True))


def _of_run(query: Select[Any], run: str | None) -> Select[Any]:
    return query if run is None else query.where(calls.c.run == run)


def _key(name: str) -> ColumnElement[Any]:
    return (calls.c.started_us // DAY_US).label("day") if name == "day" else calls.c[name]


def _day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_US / MICRO, UTC).date().isoformat()


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
