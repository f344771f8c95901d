"""The table of an evaluation in Markdown: measured rows, and the paper's beside them, marked as such."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.evaluation.markdown import markdown_table as _table
from benchmarks.evaluation.measure import EXACT, Measure
from benchmarks.evaluation.methods import BEST_CONSTANT_TRAINING, METHODS, definitions
from benchmarks.evaluation.published import PublishedMetric, PublishedRow, published
from benchmarks.evaluation.row_summary import Against, Ended, Part, RowSummary
from benchmarks.evaluation.statistics import Interval

_BASES = {"qwen": "Qwen2.5-3B-Instruct", "llama": "Llama-3.2-3B-Instruct"}
PUBLISHED = (*_BASES, "all", "none")
_TABLES = ("Table 1", "Table 3", "Table 5")  # all sets, the six candidates, no weight on cost
_ENDED = ("refusals", "failed calls", "invalid routes")
_UNKNOWN = "–"
_CONSTANT = METHODS[BEST_CONSTANT_TRAINING]
VERDICT_NOTE = (
    f"The {_CONSTANT.name} {_CONSTANT.meaning}. A router that learns is told at the λ that suits it best of those at "
    "which it costs no more; that is chosen by these very questions, which flatters it."
)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """All that a table tells."""

    title: str
    about: Mapping[str, str]  # what was asked of whom, by a name each
    pool: str  # fingerprint
    rows: Sequence[RowSummary]
    against: Mapping[str, Against]
    published: str = "qwen"  # of PUBLISHED
    notes: Sequence[str] = field(default=())
    verdicts: Sequence[str] = field(default=())  # on the policy and the routers that learn

    @property
    def sets(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row.by_set))


def published_rows(metric: PublishedMetric, sets: Sequence[str], which: str) -> list[PublishedRow]:
    """The paper's rows for a base model, if it has numbers for any of these sets."""
    if which == "none":
        return []
    return [
        row
        for row in published().rows(metric, base=_BASES.get(which))
        if row.table in _TABLES and not set(sets).isdisjoint(row.scores)
    ]


def render(found: Evaluated) -> str:
    """The whole table."""
    right = "Exact match" if measures_of(found.rows) == [EXACT] else "Right, each row by its measure,"
    parts = [
        f"# {found.title}",
        "\n".join(f"- {name}: {text}" for name, text in found.about.items()),
        *(f"Note: {note}" for note in found.notes),
        _verdict(found),
        _section("On the whole", f"{_whole(found)}\n\n{_meanings(found)}", found),
        _section(f"{right} by data set, 95 %", _by_set(found, "em"), found, published_note=True),
        _section("Token F1 by data set", _by_set(found, "f1"), found, published_note=True),
        _section("What it took, by data set and by hops", _took(found), found),
    ]
    if len({hops for row in found.rows for hops in row.by_hops}) > 1:
        parts.append(_section(f"{right} by hops, 95 %", _by_hops(found), found))
    parts.append(_section("Share of the calls by model", _shares(found), found))
    if any(row.samples > 1 for row in found.rows):
        parts.append(_section("Several samples", _samples(found), found))
    return "\n\n".join(part for part in parts if part) + "\n"


def _meanings(found: Evaluated) -> str:
    """What the rows are."""
    return "\n".join(f"- {line}" for line in definitions(row.name for row in found.rows))


def _verdict(found: Evaluated) -> str:
    said = "\n".join(f"- {verdict}" for verdict in found.verdicts)
    return _section("Verdict", f"{VERDICT_NOTE}\n\n{said}", found) if said else ""


def _section(title: str, table: str, found: Evaluated, published_note: bool = False) -> str:
    caption = f"Pool `{found.pool}`."
    if published_note and published_rows("em", found.sets, found.published):
        caption += (
            " Rows in italics are the paper's own numbers, with the paper's candidates, prices and questions: "
            "published, not measured here."
        )
    return f"## {title}\n\n{caption}\n\n{table}" if table else ""


def _whole(found: Evaluated) -> str:
    head = (
        "row", "questions", "exact match, 95 %", "F1, 95 %", "all questions", "USD per 1k", "calls", "tokens in", "out",
        "policy tokens", "latency s", "no answer", *_ENDED, "lost", "against reference, 95 %",
        "p (Holm)",
    )  # fmt: skip
    if measures_of(found.rows) == [EXACT]:
        return _table(head, (_whole_row(row, found) for row in found.rows))
    named = ["right, 95 %" if name == "exact match, 95 %" else name for name in head[2:]]
    return _table((*head[:2], "right by", *named), (_measured_row(row, found) for row in found.rows))


def _whole_row(row: RowSummary, found: Evaluated) -> list[str]:
    usd = f"{row.usd_per_1k:.4g}" + (f" + {row.policy_usd_per_1k:.4g}" if row.policy_usd_per_1k else "")
    gap, p = _gap(found.against.get(row.name), row.name, found)
    counted = [f"{row.calls:.2f}", *(f"{n:.1f}" for n in (row.prompt_tokens, row.completion_tokens, row.policy_tokens))]
    return [
        row.name, str(row.questions), interval_text(row.em), interval_text(row.f1), f"{row.em_all:.3f}", usd, *counted,
        f"{row.latency_s:.2f}", f"{row.unanswered:.1%}", *_ended(row.ended), str(row.lost),
        gap, p,
    ]  # fmt: skip


def measures_of(rows: Sequence[RowSummary]) -> list[Measure]:
    """What the rows are scored by."""
    return list(dict.fromkeys(row.measure for row in rows))


def _measured_row(row: RowSummary, found: Evaluated) -> list[str]:
    name, questions, *others = _whole_row(row, found)
    return [name, questions, row.measure, *others]


def _gap(against: Against | None, name: str, found: Evaluated) -> tuple[str, str]:
    if against is None:
        is_reference = any(other.reference == name for other in found.against.values())
        return ("reference" if is_reference else _UNKNOWN), ""
    return interval_text(against.comparison.difference, "+.3f"), f"{against.p_holm:.2g}"


def _by_set(found: Evaluated, metric: PublishedMetric) -> str:
    if metric == "f1" and all(part.f1 is None for row in found.rows for part in row.by_set.values()):
        return ""

    def cell(part: Part | None) -> str:
        if part is None:
            return _UNKNOWN
        return interval_text(part.em) if metric == "em" else _number(part.f1)

    def average(row: RowSummary) -> str:
        interval = row.em if metric == "em" else row.f1
        return _number(interval.mean if interval else None)

    named = metric == "em" and measures_of(found.rows) != [EXACT]
    rows = [
        [row.name, *([row.measure] * named), *(cell(row.by_set.get(name)) for name in found.sets), average(row)]
        for row in found.rows
    ]
    for row in published_rows(metric, found.sets, found.published):
        scores = [row.scores.get(name) for name in found.sets]
        mean = None if None in scores else math.fsum(s for s in scores if s is not None) / len(scores)
        cells = (row.label, *([EXACT] * named), *map(_number, scores), _number(mean))
        rows.append([f"*{cell.replace('*', '⁎')}*" for cell in cells])
    return _table(("row", *(["right by"] * named), *found.sets, "average"), rows)


def _took(found: Evaluated) -> str:
    head = ("row", "of", "questions", "USD per 1k", "calls", "tokens in", "out", "latency s", *_ENDED)
    parts = [
        (row.name, name, part)
        for row in found.rows
        for name, part in (*row.by_set.items(), *((_hops(count), part) for count, part in row.by_hops.items()))
    ]
    return _table(
        head,
        (
            [
                row, name, str(part.questions), f"{part.usd_per_1k:.4g}", f"{part.calls:.2f}",
                f"{part.prompt_tokens:.1f}", f"{part.completion_tokens:.1f}", f"{part.latency_s:.2f}",
                *_ended(part.ended),
            ]
            for row, name, part in parts
        ),
    )  # fmt: skip


def _ended(ended: Ended) -> tuple[str, str, str]:
    return str(ended.refusals), str(ended.failed_calls), str(ended.invalid_routes)


def _hops(count: int) -> str:
    return f"{count} hop{'s' if count > 1 else ''}"


def _by_hops(found: Evaluated) -> str:
    hops = sorted({count for row in found.rows for count in row.by_hops})
    named = measures_of(found.rows) != [EXACT]

    def cells(row: RowSummary) -> list[str]:
        return [interval_text(part.em) if (part := row.by_hops.get(count)) else _UNKNOWN for count in hops]

    rows = ([row.name, *([row.measure] * named), *cells(row)] for row in found.rows)
    return _table(("row", *(["right by"] * named), *map(_hops, hops)), rows)


def _shares(found: Evaluated) -> str:
    models = list(dict.fromkeys(name for row in found.rows for name in sorted(row.call_share)))
    if not models:
        return "No candidate was asked at all."
    rows = (
        [row.name, f"{row.entropy:.3f}", *(f"{share:.3f}" if (share := row.call_share.get(m)) else "" for m in models)]
        for row in found.rows
    )
    return _table(("row", "entropy, nats", *models), rows)


def _samples(found: Evaluated) -> str:
    several = [row for row in found.rows if row.samples > 1]
    sizes = sorted({k for row in several for k in row.pass_at})
    return _table(
        ("row", "samples", *(f"pass@{k}" for k in sizes), "spread of exact match"),
        (
            [row.name, str(row.samples), *(_number(row.pass_at.get(k)) for k in sizes), _number(row.spread)]
            for row in several
        ),
    )


def interval_text(value: Interval | None, form: str = ".3f") -> str:
    """A mean with its bounds, which are not known of a single question."""
    if value is None:
        return _UNKNOWN
    return f"{value.mean:{form}}" + (f" ({value.low:{form}} - {value.high:{form}})" if value.known else "")


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None or math.isnan(value) else f"{value:.3f}"
