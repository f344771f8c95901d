"""The tables of an evaluation: its rows, by data set and hops, published rows beside them, calls and candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from benchmarks.evaluation.evaluated import Evaluated, is_policy
from benchmarks.evaluation.formats import bounds, dollars, percent, points_text, share_text
from benchmarks.evaluation.measure import EXACT
from benchmarks.evaluation.methods import BEST_CONSTANT_TRAINING, METHODS, methods_of
from benchmarks.evaluation.published import PublishedMetric, Quoted, published
from benchmarks.evaluation.row_summary import Part, RowSummary
from benchmarks.evaluation.tables import Column, Table, text_columns

_CONSTANT = METHODS[BEST_CONSTANT_TRAINING]
VERDICT_NOTE = (
    f"The {_CONSTANT.name} {_CONSTANT.meaning}. A router that learns is told at the λ that suits it best of those at "
    "which it costs no more; that is chosen by these very questions, which flatters it."
)
NOBODY_ASKED = "No candidate was asked at all."
_QUOTED_NOTE = (
    "Rows in italics are published, not measured here: the paper's own numbers, with the paper's candidates, prices "
    "and questions."
)


def result_tables(found: Evaluated, named: Sequence[str] = ()) -> list[Table]:
    """What the rows come to, and what the rows and the methods `named` beside them are; tables that would tell nothing
    are left out."""
    meanings = methods_table([*(row.name for row in found.rows), *named])
    told = [rows_table(found), meanings, *sets_tables(found), _hops_table(found), _samples_table(found)]
    return [*(table for table in told if table is not None), _took_table(found)]


def methods_table(rows: Iterable[str]) -> Table:
    """The methods behind some rows, each with its definition."""
    cells = [(method.key, method.name, method.meaning) for method in methods_of(rows)]
    return Table("What the rows are", text_columns("Method", "In words", "What it is"), cells, folded=len(cells) > 6)


def rows_table(found: Evaluated) -> Table:
    """Every row, the best first: how often it is right, at what price, and how it differs from the reference."""
    own, several = any(row.policy_usd_per_1k for row in found.rows), len(found.sets) > 1
    columns = [
        *text_columns("Row"), Column("Exact match" if found.exact else "Right", "%"), Column("95 % interval", "%"),
        Column("F1", "%"), Column("Price", "USD per 1k"), *([Column("Own tokens", "USD per 1k")] if own else []),
        Column("Calls", "per question"), Column("Questions"),
        *([Column("Mean over all questions", "%")] if several else []),
        *_right_by(found), Column("Difference", "points, 95 % interval"), Column("p", "Holm"),
    ]  # fmt: skip
    cells = [
        [
            row.name, percent(row.em.mean), bounds(row.em), percent(row.f1.mean) if row.f1 else None,
            dollars(row.usd_per_1k), *([dollars(row.policy_usd_per_1k)] if own else []), f"{row.calls:.2f}",
            f"{row.questions:,}", *([percent(row.em_all)] if several else []), *_measure(found, row),
            *_gap(found, row),
        ]
        for row in found.ranked
    ]  # fmt: skip
    reference = next((each.reference for each in found.against.values()), None)
    note = "Means over data sets of the means over questions; intervals are bootstrapped. " if several else ""
    if reference is not None:
        note += (
            f"Differences are those to {reference}, question by question, with the paired test's p-value, adjusted for "
            f"{len(found.against)} comparisons."
        )
    return Table("All rows, the best first", columns, cells, note.rstrip(), _policies(found))


def sets_tables(found: Evaluated) -> list[Table]:
    """Exact match and F1 by data set, the paper's rows beside those measured here."""
    tables = [_by_set(found, "em", f"{_right(found)} by data set, %")]
    if any(part.f1 is not None for row in found.rows for part in row.by_set.values()):
        tables.append(_by_set(found, "f1", "F1 by data set, %"))
    return tables


def shares_table(found: Evaluated) -> Table | None:
    """Who is asked by whom; None where nobody is asked at all."""
    models = list(dict.fromkeys(name for row in found.rows for name in sorted(row.call_share)))
    if not models:
        return None
    columns = [*text_columns("Row"), Column("Entropy", "nats"), Column("Models", "effective number"),
               *(Column(name, "% of calls") for name in models)]  # fmt: skip
    rows = [
        [row.name, f"{row.entropy:.3f}", f"{math.exp(row.entropy):.1f}" if row.call_share else "0.0",
         *(percent(row.call_share[name]) if name in row.call_share else "" for name in models)]
        for row in found.ranked
    ]  # fmt: skip
    note = "The effective number of models is the exponential of the entropy: 1 if all calls go to one."
    return Table("Share of the calls by candidate", columns, rows, note, _policies(found), folded=len(models) > 6)


def cards_table(found: Evaluated) -> Table:
    """The candidates with what their fingerprint is of."""
    columns = [
        *text_columns("Candidate", "Model"), Column("Price in", "USD per Mtok"), Column("Price out", "USD per Mtok"),
        Column("Context", "tokens"), Column("Longest reply", "tokens"), Column("Most a minute", "requests"),
        Column("Most a minute", "tokens"), Column("Temperature"),
    ]  # fmt: skip

    def told(value: object) -> str | None:
        return None if value is None else f"{value:,g}" if isinstance(value, int | float) else str(value)

    rows = [
        [name, f"{card.get('model')}{'@' if card.get('revision') else ''}{card.get('revision') or ''}",
         *(told(card.get(field)) for field in ("price_in_usd_per_mtok", "price_out_usd_per_mtok", "context_tokens",
           "max_output_tokens", "requests_per_minute", "tokens_per_minute", "temperature"))]
        for name, card in found.cards.items()
    ]  # fmt: skip
    note = (
        f"Fingerprint {found.pool}, of names, models, prices and limits: tables can be compared where it is the same."
    )
    return Table("The candidates", columns, rows, note)


def quoted_table(title: str, rows: Sequence[Quoted], sets: Sequence[str]) -> Table:
    """The paper's rows alone, where there are no rows to stand beside."""
    columns = [*text_columns("Row", "Source", "Pool"), *(Column(name, "%") for name in sets), Column("Mean", "%")]
    cells = [_quoted_cells(row, sets) for row in rows]
    return Table(title, columns, cells, _quoted_note(rows), quoted=frozenset(range(len(cells))))


def _hops_table(found: Evaluated) -> Table | None:
    """How often rows are right by hops; None where all questions have as many."""
    hops = sorted({count for row in found.rows for count in row.by_hops})
    if len(hops) < 2:
        return None
    rows = [
        [row.name, *_measure(found, row), *(_part_right(row.by_hops.get(count)) for count in hops)]
        for row in found.ranked
    ]
    columns = [*text_columns("Row"), *_right_by(found), *(Column(_hops(count), "95 % interval") for count in hops)]
    return Table(f"{_right(found)} by hops, %", columns, rows, highlight=_policies(found))


def _took_table(found: Evaluated) -> Table:
    """What each row took, on the whole, by data set and by hops: dollars, calls, tokens, time, and what went wrong."""
    columns = [
        *text_columns("Row", "Of"), Column("Questions"), Column("Price", "USD per 1k"),
        Column("Calls", "per question"), Column("Tokens in"), Column("Tokens out"), Column("Policy's tokens"),
        Column("Latency", "s"), Column("No answer", "%"), Column("Refusals"), Column("Failed calls"),
        Column("Invalid routes"), Column("Lost"),
    ]  # fmt: skip
    rows: list[list[str | None]] = []
    highlight = set()
    for row in found.ranked:
        highlight.add(len(rows))
        own, silent = f"{row.policy_tokens:.1f}", percent(row.unanswered)
        rows.append([row.name, "all", *_took(row, own), silent, *_ended(row), f"{row.lost:,}"])
        named = [*row.by_set.items(), *((_hops(count), part) for count, part in row.by_hops.items())]
        rows += [[row.name, name, *_took(part, None), None, *_ended(part), None] for name, part in named]
    note = (
        "Per question, but for refusals, failed calls, invalid routes and lost episodes, which are counted in all. "
        "Lost ones came to no end and are in no number."
    )
    return Table("What it took, by data set and by hops", columns, rows, note, frozenset(highlight), folded=True)


def _samples_table(found: Evaluated) -> Table | None:
    """pass@k and the spread from sample to sample; None where every question was asked once."""
    several = [row for row in found.ranked if row.samples > 1]
    if not several:
        return None
    sizes = sorted({k for row in several for k in row.pass_at})
    columns = [*text_columns("Row"), Column("Samples"), *(Column(f"pass@{k}", "%") for k in sizes),
               Column("Spread", "points")]  # fmt: skip
    rows = [
        [row.name, f"{row.samples}", *(percent(row.pass_at.get(k)) for k in sizes), percent(row.spread)]
        for row in several
    ]
    note = "pass@k: right in one of k samples. Spread: the standard deviation of exact match from sample to sample."
    return Table("Several samples", columns, rows, note)


def _by_set(found: Evaluated, metric: PublishedMetric, title: str) -> Table:
    quoted = [row for row in found.quoted if row.metric == metric]
    unit, named = ("95 % interval", not found.exact) if metric == "em" else ("", False)
    columns = [*text_columns("Row", "Source", "Pool"), *(_right_by(found) if named else []),
               *(Column(name, unit) for name in found.sets), Column("Mean", "95 % interval")]  # fmt: skip

    def cell(part: Part | None) -> str | None:
        return _part_right(part) if part is None or metric == "em" else percent(part.f1)

    cells = [
        [row.name, "measured here", found.pool, *([row.measure] * named),
         *(cell(row.by_set.get(name)) for name in found.sets), share_text(row.em if metric == "em" else row.f1)]
        for row in found.ranked
    ]  # fmt: skip
    first = len(cells)
    for row in quoted:
        known = _quoted_cells(row, found.sets)
        cells.append([*known[:3], *([EXACT] * named), *known[3:]])
    note = "" if not quoted else _quoted_note(quoted) if metric == "em" else _QUOTED_NOTE
    return Table(title, columns, cells, note, _policies(found), frozenset(range(first, len(cells))))


def _quoted_cells(row: Quoted, sets: Sequence[str]) -> list[str | None]:
    scores = [row.scores.get(name, math.nan) for name in sets]
    known = row.pool is not None
    pool = f"the paper's {len(row.pool)}" if row.pool else "none" if known else "not known"
    return [row.label, f"published, {row.table}", pool, *map(percent, scores), percent(math.fsum(scores) / len(scores))]


def _quoted_note(rows: Sequence[Quoted]) -> str:
    """What published rows are, where they are from, and who the candidates were."""
    source = published().source
    pools = {row.pool for row in rows if row.pool}
    told = "".join(f" The paper's {len(pool)} candidates: {', '.join(pool)}." for pool in sorted(pools, key=len))
    alone = " Without a pool the base model answers by itself." if any(row.pool == () for row in rows) else ""
    return (
        f"{_QUOTED_NOTE}{told}{alone} Its protocol: {published().protocol.strip()} Source: {source.authors}, "
        f"{source.title}, {source.venue}, {source.url}."
    )


def _right(found: Evaluated) -> str:
    return "Exact match" if found.exact else "Right, each row by its measure,"


def _right_by(found: Evaluated) -> list[Column]:
    """A column for each row's measure, where it is not exact match for all."""
    return [] if found.exact else text_columns("Right by")


def _measure(found: Evaluated, row: RowSummary) -> list[str]:
    return [] if found.exact else [row.measure]


def _gap(found: Evaluated, row: RowSummary) -> tuple[str | None, str | None]:
    compared = found.against.get(row.name)
    if compared is None:
        is_reference = any(each.reference == row.name for each in found.against.values())
        return ("reference" if is_reference else None), None
    return points_text(compared.comparison.difference), f"{compared.p_holm:.2g}"


def _hops(count: int) -> str:
    return f"{count} hop{'s' if count > 1 else ''}"


def _part_right(part: Part | None) -> str | None:
    return share_text(part.em) if part else None


def _took(part: RowSummary | Part, own_tokens: str | None) -> list[str | None]:
    counted = (part.prompt_tokens, part.completion_tokens)
    means = [dollars(part.usd_per_1k), f"{part.calls:.2f}", *(f"{count:.1f}" for count in counted)]
    return [f"{part.questions:,}", *means, own_tokens, f"{part.latency_s:.2f}"]


def _ended(part: RowSummary | Part) -> list[str]:
    ended = part.ended
    return [f"{count:,}" for count in (ended.refusals, ended.failed_calls, ended.invalid_routes)]


def _policies(found: Evaluated) -> frozenset[int]:
    return frozenset(at for at, row in enumerate(found.ranked) if is_policy(row))
