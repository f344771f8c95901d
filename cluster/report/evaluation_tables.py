"""The tables of an evaluation's report: its rows, by data set and hops, published rows beside them, pool and calls."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.evaluation.published import PublishedMetric, published
from benchmarks.evaluation.row_summary import Part, RowSummary
from benchmarks.evaluation.statistics import Interval
from benchmarks.evaluation.tables import Column, Table
from cluster.evaluation.record import EvaluationRecord, Quoted
from cluster.report.run_tables import percent

_QUOTED_NOTE = (
    "Rows in italics are published, not measured here: the paper's own numbers, with the paper's candidates, prices "
    "and questions."
)


def rows_table(record: EvaluationRecord) -> Table:
    """Every row, the best first: how often it is right, at what price, and how it differs from the reference."""
    own = any(row.policy_usd_per_1k for row in record.rows)
    columns = [
        Column("Row", numeric=False), Column("Exact match", "%"), Column("95 % interval", "%"), Column("F1", "%"),
        Column("Price", "USD per 1k"), *([Column("Own tokens", "USD per 1k")] if own else []),
        Column("Calls", "per question"), Column("Difference", "points, 95 % interval"), Column("p", "Holm"),
    ]  # fmt: skip
    cells = [
        [
            row.name, percent(row.em.mean), bounds(row.em), percent(row.f1.mean) if row.f1 else None,
            number(row.usd_per_1k), *([number(row.policy_usd_per_1k)] if own else []), f"{row.calls:.2f}",
            *_gap(record, row),
        ]
        for row in record.ranked
    ]  # fmt: skip
    reference = next((each.reference for each in record.against.values()), None)
    note = (
        "Means over data sets of the means over questions; intervals are bootstrapped. " if len(record.sets) > 1 else ""
    )
    if reference is not None:
        note += (
            f"Differences are those to {reference}, question by question, with the paired test's p-value, adjusted for "
            f"{len(record.against)} comparisons."
        )
    return Table("All rows, the best first", columns, cells, note, _policies(record.ranked))


def sets_tables(record: EvaluationRecord) -> list[Table]:
    """Exact match and F1 by data set, the paper's rows beside those measured here."""
    tables = [_by_set(record, "em", "Exact match by data set, %")]
    if any(part.f1 is not None for row in record.rows for part in row.by_set.values()):
        tables.append(_by_set(record, "f1", "F1 by data set, %"))
    return tables


def hops_table(record: EvaluationRecord) -> Table | None:
    """Exact match by hops; None where all questions have as many."""
    hops = sorted({count for row in record.rows for count in row.by_hops})
    if len(hops) < 2:
        return None
    rows = [[row.name, *(_right(row.by_hops.get(count)) for count in hops)] for row in record.ranked]
    columns = [Column("Row", numeric=False), *(Column(hops_of(count), "95 % interval") for count in hops)]
    return Table("Exact match by hops, %", columns, rows, highlight=_policies(record.ranked))


def took_table(record: EvaluationRecord) -> Table:
    """What each row took, on the whole, by data set and by hops: dollars, calls, tokens, time, and what went wrong."""
    columns = [
        Column("Row", numeric=False), Column("Of", numeric=False), Column("Questions"), Column("Price", "USD per 1k"),
        Column("Calls", "per question"), Column("Tokens in"), Column("Tokens out"), Column("Policy's tokens"),
        Column("Latency", "s"), Column("No answer", "%"), Column("Refusals"), Column("Failed calls"),
        Column("Invalid routes"), Column("Lost"),
    ]  # fmt: skip
    rows: list[list[str | None]] = []
    highlight = set()
    for row in record.ranked:
        highlight.add(len(rows))
        own, silent = f"{row.policy_tokens:.1f}", percent(row.unanswered)
        rows.append([row.name, "all", *_took(row, own), silent, *_ended(row), f"{row.lost:,}"])
        named = [*row.by_set.items(), *((hops_of(count), part) for count, part in row.by_hops.items())]
        rows += [[row.name, name, *_took(part, None), None, *_ended(part), None] for name, part in named]
    note = (
        "Per question, but for refusals, failed calls, invalid routes and lost episodes, which are counted in all. "
        "Lost ones came to no end and are in no number."
    )
    return Table("What it took, by data set and by hops", columns, rows, note, frozenset(highlight), folded=True)


def samples_table(record: EvaluationRecord) -> Table | None:
    """pass@k and the spread from sample to sample; None where every question was asked once."""
    several = [row for row in record.ranked if row.samples > 1]
    if not several:
        return None
    sizes = sorted({k for row in several for k in row.pass_at})
    columns = [Column("Row", numeric=False), Column("Samples"), *(Column(f"pass@{k}", "%") for k in sizes),
               Column("Spread", "points")]  # fmt: skip
    rows = [
        [row.name, f"{row.samples}", *(percent(row.pass_at.get(k, math.nan)) for k in sizes),
         None if row.spread is None else percent(row.spread)]
        for row in several
    ]  # fmt: skip
    note = "pass@k: right in one of k samples. Spread: the standard deviation of exact match from sample to sample."
    return Table("Several samples", columns, rows, note)


def shares_table(record: EvaluationRecord) -> Table | None:
    """Who is asked by whom; None where nobody is asked at all."""
    models = list(dict.fromkeys(name for row in record.rows for name in sorted(row.call_share)))
    if not models:
        return None
    columns = [Column("Row", numeric=False), Column("Entropy", "nats"), Column("Models", "effective number"),
               *(Column(name, "% of calls") for name in models)]  # fmt: skip
    rows = [
        [row.name, f"{row.entropy:.3f}", f"{math.exp(row.entropy):.1f}" if row.call_share else "0.0",
         *(percent(row.call_share[name]) if name in row.call_share else "" for name in models)]
        for row in record.ranked
    ]  # fmt: skip
    note = "The effective number of models is the exponential of the entropy: 1 if all calls go to one."
    return Table(
        "Share of the calls by candidate", columns, rows, note, _policies(record.ranked), folded=len(models) > 6
    )


def pool_table(record: EvaluationRecord) -> Table:
    """The candidates with what their fingerprint is of."""
    columns = [
        Column("Candidate", numeric=False), Column("Model", numeric=False), Column("Price in", "USD per Mtok"),
        Column("Price out", "USD per Mtok"), Column("Context", "tokens"), Column("Longest reply", "tokens"),
        Column("Most a minute", "requests"), Column("Most a minute", "tokens"), Column("Temperature"),
    ]  # fmt: skip

    def told(value: object) -> str | None:
        return None if value is None else f"{value:,g}" if isinstance(value, int | float) else str(value)

    rows = [
        [name, f"{card.get('model')}{'@' if card.get('revision') else ''}{card.get('revision') or ''}",
         *(told(card.get(field)) for field in ("price_in_usd_per_mtok", "price_out_usd_per_mtok", "context_tokens",
           "max_output_tokens", "requests_per_minute", "tokens_per_minute", "temperature"))]
        for name, card in record.cards.items()
    ]  # fmt: skip
    note = (
        f"Fingerprint {record.pool}, of names, models, prices and limits: tables can be compared where it is the same."
    )
    return Table("The candidates", columns, rows, note)


def quoted_table(title: str, rows: Sequence[Quoted], sets: Sequence[str]) -> Table:
    """The paper's rows alone, for a page without rows to stand beside."""
    columns = [Column("Row", numeric=False), Column("Source", numeric=False), Column("Pool", numeric=False),
               *(Column(name, "%") for name in sets), Column("Mean", "%")]  # fmt: skip
    cells = [_quoted_cells(row, sets) for row in rows]
    return Table(title, columns, cells, quoted_note(rows), quoted=frozenset(range(len(cells))))


def quoted_note(rows: Sequence[Quoted]) -> str:
    """What published rows are, where they are from, and who the candidates were."""
    source = published().source
    pools = {row.pool for row in rows if row.pool}
    told = "".join(f" The paper's {len(pool)} candidates: {', '.join(pool)}." for pool in sorted(pools, key=len))
    alone = " Without a pool the base model answers by itself." if any(row.pool == () for row in rows) else ""
    return (
        f"{_QUOTED_NOTE}{told}{alone} Its protocol: {published().protocol.strip()} Source: {source.authors}, "
        f"{source.title}, {source.venue}, {source.url}."
    )


def hops_of(count: int) -> str:
    return f"{count} hop{'s' if count > 1 else ''}"


def number(value: float) -> str:
    """Dollars to four digits."""
    return f"{value:,.4g}"


def bounds(value: Interval) -> str | None:
    """The bounds of a share, in percent; None where they are not known."""
    return f"{percent(value.low)} – {percent(value.high)}" if value.known else None


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def point_bounds(value: Interval) -> str | None:
    return f"{points(value.low)} to {points(value.high)}" if value.known else None


def _gap(record: EvaluationRecord, row: RowSummary) -> tuple[str | None, str | None]:
    found = record.against.get(row.name)
    if found is None:
        is_reference = any(each.reference == row.name for each in record.against.values())
        return ("reference" if is_reference else None), None
    gap = found.comparison.difference
    return f"{points(gap.mean)}" + (f" ({point_bounds(gap)})" if gap.known else ""), f"{found.p_holm:.2g}"


def _by_set(record: EvaluationRecord, metric: PublishedMetric, title: str) -> Table:
    sets = record.sets
    quoted = [row for row in record.quoted if row.metric == metric]
    unit = "95 % interval" if metric == "em" else ""
    columns = [Column("Row", numeric=False), Column("Source", numeric=False), Column("Pool", numeric=False),
               *(Column(name, unit) for name in sets), Column("Mean", "95 % interval")]  # fmt: skip

    def cell(part: Part | None) -> str | None:
        if part is None or metric == "em":
            return _right(part)
        return None if part.f1 is None else percent(part.f1)

    def mean(row: RowSummary) -> str | None:
        interval = row.em if metric == "em" else row.f1
        return _shown(interval) if interval else None

    cells: list[list[str | None]] = [
        [row.name, "measured here", record.pool, *(cell(row.by_set.get(name)) for name in sets), mean(row)]
        for row in record.ranked
    ]
    first = len(cells)
    cells += [_quoted_cells(row, sets) for row in quoted]
    note = "" if not quoted else quoted_note(quoted) if metric == "em" else _QUOTED_NOTE
    return Table(
        title, columns, cells, note, _policies(record.ranked),
        quoted=frozenset(range(first, len(cells))),
    )  # fmt: skip


def _quoted_cells(row: Quoted, sets: Sequence[str]) -> list[str | None]:
    scores = [row.scores.get(name, math.nan) for name in sets]
    known = row.pool is not None
    pool = f"the paper's {len(row.pool)}" if row.pool else "none" if known else "not known"
    return [row.label, f"published, {row.table}", pool, *map(percent, scores), percent(math.fsum(scores) / len(scores))]


def _right(part: Part | None) -> str | None:
    return None if part is None else _shown(part.em)


def _shown(value: Interval) -> str:
    return f"{percent(value.mean)}" + (f" ({bounds(value)})" if value.known else "")


def _took(part: RowSummary | Part, own_tokens: str | None) -> list[str | None]:
    counted = (part.prompt_tokens, part.completion_tokens)
    means = [number(part.usd_per_1k), f"{part.calls:.2f}", *(f"{count:.1f}" for count in counted)]
    return [f"{part.questions:,}", *means, own_tokens, f"{part.latency_s:.2f}"]


def _ended(part: RowSummary | Part) -> list[str]:
    ended = part.ended
    return [f"{count:,}" for count in (ended.refusals, ended.failed_calls, ended.invalid_routes)]


def _policies(rows: Sequence[RowSummary]) -> frozenset[int]:
    return frozenset(at for at, row in enumerate(rows) if row.name.startswith("policy"))
