"""`router-r1 ledger`: what the candidate calls of runs came to; SQLAlchemy is imported by the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.evaluation.tables import Column, Table
from cluster.cli.output import print_table

if TYPE_CHECKING:
    from actors.ledger.database import Connection

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="The ledger of candidate calls: what they cost, how they went, their export and pruning.",
)


# What fits a terminal; --json has the rest.
_STATS_COLUMNS = ("model", "calls", "failure_rate", "cost_usd", "latency_p50_s", "latency_p90_s", "latency_p99_s")


class Key(StrEnum):
    """What costs may be summed by."""

    MODEL = "model"
    RUN = "run"
    STEP = "step"
    DAY = "day"


Where = Annotated[
    str, typer.Argument(metavar="RUN_OR_URL", help="A run folder, a ledger.sqlite, or the URL of a PostgreSQL ledger.")
]
Run = Annotated[str | None, typer.Option("--run", help="Only this run of a ledger that several share.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def stats(where: Where, run: Run = None, json_: Json = False) -> None:
    """Show calls and spending by model and day, hit rate, latencies and failures.

    Failed calls are those without a reply: timeouts, provider errors, cancelled ones. A refusal is a reply, and
    charged. Latencies are of calls with a reply, retries included. The hit rate is that of the modes `cache` and
    `replay`. An open call is under way, or its process was killed; its money stays reserved until it is asked
    again. --json tells more: tokens, attempts, hedged calls, calls whose tokens were estimated.

    \b
    Examples:
      router-r1 ledger stats runs/NAME
      PGPASSWORD=… router-r1 ledger stats postgresql://USER@HOST/DATABASE --run NAME --json
    """
    from actors.ledger.report import hit_rate, models, spend, statuses

    with _reading(where, run) as connection:
        total = {**spend(connection, [], run)[0], **hit_rate(connection, run), "statuses": statuses(connection, run)}
        by_model = models(connection, run)
        by_day = spend(connection, ["day", "model"], run)
    if json_:
        typer.echo(json.dumps({"total": total, "models": by_model, "days": by_day}, indent=2))
        return
    ended = ", ".join(f"{count:,} {status}" for status, count in total["statuses"].items())
    typer.echo(f"{total['calls']:,} calls ({ended or 'none'}): ${total['cost_usd']:,.6f}")
    if total["reserved_usd"]:
        typer.echo(f"${total['reserved_usd']:,.6f} reserved by open calls")
    if total["hit_rate"] is not None:
        typer.echo(f"{total['hit_rate']:.1%} of {total['hits'] + total['misses']:,} look-ups answered by the ledger")
    _print_rows([{name: row[name] for name in _STATS_COLUMNS} for row in by_model])
    _print_rows(by_day)


@app.command()
def cost(
    where: Where,
    by: Annotated[list[Key] | None, typer.Option(help="What to sum by; may be repeated. Model, if not given.")] = None,
    run: Run = None,
    json_: Json = False,
) -> None:
    """Sum what calls cost, by model, run, step or day (of UTC).

    Reserved is what calls that are still open may come to cost.

    \b
    Examples:
      router-r1 ledger cost runs/NAME
      router-r1 ledger cost runs/NAME --by day --by model
    """
    from actors.ledger.report import spend

    with _reading(where, run) as connection:
        rows = spend(connection, [str(key) for key in by or [Key.MODEL]], run)
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    _print_rows(rows)
    typer.echo(f"${sum(row['cost_usd'] for row in rows):,.6f} in all")


@app.command()
def export(
    where: Where,
    file: Annotated[Path, typer.Argument(help="File to write: .parquet, .csv or .jsonl.")],
    run: Run = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write all calls to a Parquet, CSV or JSON-lines file, a row each.

    With requests and replies, statuses, tokens, dollars, and the place in the run.

    \b
    Example:
      router-r1 ledger export runs/NAME calls.parquet
    """
    from actors.ledger.entry import LedgerError
    from actors.ledger.export import export as export_calls

    if file.exists() and not force:
        raise LedgerError(f"{file} exists: name another file, or give --force to overwrite it")
    with _reading(where, run) as connection:
        count = export_calls(connection, file, run)
    typer.echo(f"{file}: {count:,} calls")


@app.command()
def prune(
    where: Where,
    older_than: Annotated[float, typer.Option(metavar="DAYS", help="Prune calls begun longer ago; 1 at least.", min=1)],
    keep_rows: Annotated[
        bool, typer.Option("--keep-rows", help="Keep rows and costs; drop only requests and replies.")
    ] = False,
    keep_run: Annotated[list[str] | None, typer.Option(help="Leave this run alone; may be repeated.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Remove old calls, to make the ledger smaller.

    A run with a call in the last day is live, and keeps all that it has: its reservations, its sums and its
    replies are in use. Pruned calls can't be replayed, and are paid for when they are asked again.

    \b
    Examples:
      router-r1 ledger prune runs/NAME --older-than 30 --keep-rows
      router-r1 ledger prune postgresql://USER@HOST/DATABASE --older-than 90 --keep-run paper --yes
    """
    from actors.ledger import pruning as ledger_pruning
    from actors.ledger.database import existing_ledger

    with existing_ledger(where) as connection:
        pruning = ledger_pruning.plan(connection, older_than, texts_only=keep_rows, keep_runs=tuple(keep_run or ()))
        if pruning.live_runs:
            typer.echo(f"kept, for they are live: {', '.join(pruning.live_runs)}")
        if not pruning.calls:
            typer.echo("nothing to prune")
            return
        what = "the requests and replies of " if keep_rows else ""
        doomed = f"{what}{pruning.calls:,} calls older than {older_than:g} days, which cost ${pruning.cost_usd:,.6f}"
        if not yes:
            typer.confirm(f"Remove {doomed}?", abort=True)
        ledger_pruning.prune(connection, pruning)
    typer.echo(f"removed {doomed}")


@contextmanager
def _reading(where: str, run: str | None) -> Iterator[Connection]:
    from actors.ledger.database import existing_ledger
    from actors.ledger.report import check_run

    with existing_ledger(where) as connection:
        if run is not None:
            check_run(connection, run)
        yield connection


def _print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """A table of rows with the same columns."""
    first = rows[0] if rows else {}
    columns = [Column(name.replace("_", " "), numeric=not isinstance(first[name], str)) for name in first]
    print_table(Table("", columns, [[_shown(name, value) for name, value in row.items()] for row in rows]))


def _shown(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if name.endswith("_rate"):
        return f"{value:.1%}"
    if name.endswith("_usd"):
        return f"{value:,.6f}"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
