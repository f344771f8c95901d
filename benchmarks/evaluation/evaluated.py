"""An evaluation's results, as its tables show them: rows, comparisons and candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.evaluation.measure import EXACT, Measure
from benchmarks.evaluation.pool_table import PoolTable
from benchmarks.evaluation.published import Quoted
from benchmarks.evaluation.row_summary import Against, RowSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Everything that an evaluation's tables show."""

    about: Mapping[str, str]  # names and values of the evaluation's settings, for the head of the document
    pool: str  # fingerprint
    cards: Mapping[str, Mapping[str, Any]]  # by candidate, the fields of its card that the fingerprint covers
    rows: Sequence[RowSummary]
    against: Mapping[str, Against]
    quoted: Sequence[Quoted] = ()
    notes: Sequence[str] = ()
    verdicts: Sequence[str] = ()  # on the policy and the routers that learn
    pools: PoolTable | None = None  # the same policy with other candidates

    @property
    def sets(self) -> list[str]:
        return sets_of(self.rows)

    @property
    def exact(self) -> bool:
        """Whether all rows are scored by exact match."""
        return measures_of(self.rows) == [EXACT]

    @property
    def ranked(self) -> list[RowSummary]:
        """The rows by falling exact match; of equal rows the cheaper one comes first."""
        return sorted(self.rows, key=lambda row: (-row.em.mean, row.usd_per_1k))

    @property
    def policies(self) -> list[RowSummary]:
        """The rows that a policy played."""
        return [row for row in self.rows if is_policy(row)]


def sets_of(rows: Sequence[RowSummary]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.by_set))


def measures_of(rows: Sequence[RowSummary]) -> list[Measure]:
    """The measures of the rows, each once."""
    return list(dict.fromkeys(row.measure for row in rows))


def is_policy(row: RowSummary) -> bool:
    return row.name.startswith("policy")
