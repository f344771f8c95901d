"""`router-r1 pool`: the candidate pool from the command line. What asks a candidate is imported when it asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from benchmarks.evaluation.tables import Table, text_columns
from cluster.cli.output import print_table
from cluster.session import stopping

if TYPE_CHECKING:
    from actors.pool.cards import ModelCard
    from actors.pool.measure import Measurement
    from actors.questions import Question

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="The candidate LLMs: list, check, probe and measure the cards of a pool.",
)

_STALE_DAYS = 180  # prices read longer ago are worth a second look
_DAY_S = 86_400.0

Pool = Annotated[Path, typer.Argument(help="A YAML file of cards, or the name of a pool (`router-r1 pool list`).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LedgerOption = Annotated[
    str, typer.Option("--ledger", help="Where the calls are recorded: a SQLite file, or postgresql://…")
]
_LEDGER = "runs/ledger.sqlite"  # in the folder of runs, beside those of the runs


@app.command("list")
def list_(
    pool: Annotated[Path | None, typer.Argument(help="A YAML file of cards, or the name of a pool.")] = None,
    json_: Json = False,
) -> None:
    """List the cards of a pool; without one, the pools that come along."""
    from actors.pool.cards import about_pool, find_pool, load_cards, shipped_pools

    if pool is None:
        pools = [{"pool": p.stem, "cards": len(load_cards(p)), "about": about_pool(p)} for p in shipped_pools()]
        if json_:
            typer.echo(json.dumps(pools, indent=2))
        else:
            _print_rows(pools)
        return
    cards = load_cards(find_pool(pool))
    if json_:
        typer.echo(json.dumps([card.model_dump(mode="json") for card in cards], indent=2))
        return
    _print_rows([_card_row(card) for card in cards])


@app.command()
def check(pool: Pool, json_: Json = False) -> None:
    """Validate the cards of a pool, and look whether the environment holds their keys.

    Asks nobody. All faults are told at once, and the exit status is then 2. No key is ever shown.
    """
    from actors.pool.cards import find_pool, read_cards

    path = find_pool(pool)
    cards, faults = read_cards(path)
    for card in cards:
        if _key_state(card) == "missing":
            faults.append(f"{path}, card {card.name!r}: {card.api_key_env} is not set; export the API key in it")
    rows = [{"card": c.name, "endpoint": c.base_url, "key": c.api_key_env or "", "is": _key_state(c)} for c in cards]
    if json_:
        typer.echo(json.dumps({"cards": rows, "faults": faults, "notes": _stale(cards)}, indent=2))
    else:
        _print_rows(rows)
        for note in _stale(cards):
            typer.echo(f"note: {note}", err=True)
        for fault in faults:
            typer.secho(f"error: {fault}", fg="red", err=True)
    if faults:
        raise typer.Exit(2)


@app.command()
def probe(
    pool: Pool,
    timeout_s: Annotated[float, typer.Option(help="Deadline of a call, in seconds.", min=0.1)] = 30.0,
    ledger: LedgerOption = _LEDGER,
    json_: Json = False,
) -> None:
    """Ask every candidate one cheap question.

    Tells whether it answers, whether it reports the tokens that it bills, whether these are plausible, what they
    cost and how long it took. Exits with 1 where one of this is not so.
    """
    from actors.ledger.database import prepare_ledger
    from actors.pool.cards import find_pool, load_cards
    from actors.pool.probe import probe as probe_cards
    from actors.pool.settings import PoolSettings

    cards = load_cards(find_pool(pool))
    settings = PoolSettings(total_timeout_s=timeout_s, max_attempts=2)
    try:
        probes = asyncio.run(probe_cards(cards, settings, ledger_url=prepare_ledger(ledger)))
    except KeyboardInterrupt:
        raise _stopped("") from None
    rows = [
        {
            "card": p.model,
            "reachable": p.reachable,
            "usage": p.usage_reported,
            "price": p.price_plausible,
            "tokens in": p.prompt_tokens,
            "out": p.completion_tokens,
            "USD": p.cost_usd,
            "latency s": round(p.latency_s, 3),
            "error": p.error,
        }
        for p in probes
    ]
    if json_:
        typer.echo(json.dumps([asdict(p) for p in probes], indent=2))
    else:
        _print_rows(rows)
    raise typer.Exit(0 if all(p.good for p in probes) else 1)


@app.command()
def measure(
    pool: Pool,
    questions: Annotated[
        Path, typer.Option(help="JSONL: id, question, answers, and dataset, the domain that accuracy is told by.")
    ],
    limit: Annotated[int | None, typer.Option(help="Ask the first so many questions.", min=1)] = None,
    write: Annotated[bool, typer.Option("--write", help="Write accuracy and latency into the card file.")] = False,
    max_usd: Annotated[
        float, typer.Option(help="Spend no more, and ask for --yes where more may be needed.", min=0)
    ] = 1.0,
    yes: Annotated[bool, typer.Option("--yes", help="Go on whatever it may cost.")] = False,
    in_flight: Annotated[int, typer.Option(help="Calls under way at a time.", min=1)] = 32,
    ledger: LedgerOption = _LEDGER,
    json_: Json = False,
) -> None:
    """Ask every candidate a set of questions: its accuracy per data set, and its median latency.

    A reply is right where it holds an accepted answer. What it may cost at most is told before; calls made again
    because the provider failed come on top, within --max-usd. With --write, the figures go into the card file in
    one step at the end; its comments stay, and Ctrl-C leaves it as it was.

    \b
    Examples:
      router-r1 pool measure my_pool.yaml --questions dev.jsonl --limit 50
      router-r1 pool measure my_pool.yaml --questions dev.jsonl --max-usd 5 --write
    """
    from actors.pool.card_file import check_writable, write_measurements
    from actors.pool.cards import find_pool, load_cards
    from actors.pool.measure import most_usd
    from actors.question_files import load_questions

    path = find_pool(pool)
    cards, asked = load_cards(path), load_questions(questions, limit)
    if write:
        check_writable(path)
    most = most_usd(cards, asked)
    typer.echo(f"{len(asked)} questions to {len(cards)} candidates: at most {most:.4f} USD", err=True)
    if most > max_usd and not yes:
        typer.secho(
            f"error: that is more than --max-usd {max_usd:g}; say --yes, raise --max-usd or lower --limit",
            fg="red",
            err=True,
        )
        raise typer.Exit(2)
    measurements = _measure(cards, asked, in_flight, None if yes else max_usd, ledger)
    if json_:
        typer.echo(json.dumps([asdict(measured) for measured in measurements], indent=2))
    else:
        _print_rows([_measurement_row(measured) for measured in measurements])
    answered = [measured for measured in measurements if measured.answered]
    if write and answered:
        write_measurements(path, answered, date.today())
        typer.echo(f"{path}: wrote accuracy and latency of {len(answered)} cards", err=True)
    raise typer.Exit(0 if len(answered) == len(cards) else 1)


def _measure(
    cards: list[ModelCard], questions: list[Question], in_flight: int, cap_usd: float | None, ledger: str
) -> list[Measurement]:
    """Measure with a bar on standard error; Ctrl-C ends it with what was spent."""
    from rich.console import Console
    from rich.progress import Progress

    from actors.ledger.database import prepare_ledger
    from actors.pool.measure import measure as measure_cards
    from actors.pool.settings import PoolSettings

    ledger_url = prepare_ledger(ledger)
    settings = PoolSettings(max_in_flight=in_flight, queue_timeout_s=_DAY_S, cap_usd_per_run=cap_usd)
    spent = 0.0
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("0.0000 USD", total=len(questions) * len(cards))

        def told(spent_usd: float) -> None:
            nonlocal spent
            spent = spent_usd
            progress.update(bar, advance=1, description=f"{spent:.4f} USD")

        try:
            return asyncio.run(measure_cards(cards, questions, settings, told, ledger_url=ledger_url))
        except KeyboardInterrupt:
            raise _stopped(f"; {spent:.4f} USD spent, nothing was written") from None


def _key_state(card: ModelCard) -> str:
    from actors.api_keys import key_is_set

    if card.api_key_env is None:
        return "none needed"
    return "set" if key_is_set(card.api_key_env) else "missing"


def _stale(cards: Iterable[ModelCard]) -> list[str]:
    today = date.today()
    return [
        f"card {card.name!r}: its prices were read on {card.priced_on}; look whether they still hold"
        for card in cards
        if card.priced_on is not None and (today - card.priced_on).days > _STALE_DAYS
    ]


def _card_row(card: ModelCard) -> dict[str, Any]:
    limits = [f"{card.requests_per_minute:g} req" if card.requests_per_minute else ""]
    limits += [f"{card.tokens_per_minute:g} tok" if card.tokens_per_minute else ""]
    return {
        "card": card.name,
        "model": card.model,
        "at": urlsplit(card.base_url).netloc,
        "USD in": f"{card.price_in_usd_per_mtok:g}",
        "out": f"{card.price_out_usd_per_mtok:g}",
        "priced": str(card.priced_on or ""),
        "per minute": ", ".join(filter(None, limits)),
        "latency s": f"{card.latency_s:g}",
        "accuracy": _accuracies(card.domains),
    }


def _measurement_row(measured: Measurement) -> dict[str, Any]:
    return {
        "card": measured.model,
        "answered": measured.answered,
        "failed": measured.failed,
        "accuracy": _accuracies(measured.accuracy),
        "latency s": round(measured.latency_s, 3),
        "USD": round(measured.cost_usd, 6),
        "errors": "; ".join(measured.errors[:3]),
    }


def _accuracies(domains: dict[str, float]) -> str:
    return ", ".join(f"{domain} {accuracy:.2f}" for domain, accuracy in domains.items())


def _print_rows(rows: list[dict[str, Any]]) -> None:
    """A table of rows with the same columns."""
    names = rows[0] if rows else ()
    print_table(Table("", text_columns(*names), [[_shown(value) for value in row.values()] for row in rows]))


def _shown(value: Any) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.3g}" if isinstance(value, float) else None if value is None else str(value)


def _stopped(what: str) -> typer.Exit:
    typer.secho(f"stopped{what}", fg="yellow", err=True)
    return typer.Exit(stopping.exit_code())
