"""An evaluation as its tables tell it: the rows, what they are compared with, and who the candidates are."""

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
    """All that an evaluation's tables tell."""

    about: Mapping[str, str]  # what was asked of whom, by a name each
    pool: str  # fingerprint
    cards: Mapping[str, Mapping[str, Any]]  # what the fingerprint is of, by candidate
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
        """The rows, those that are right most often first, the cheaper of those alike."""
        return sorted(self.rows, key=lambda row: (-row.em.mean, row.usd_per_1k))

    @property
    def policies(self) -> list[RowSummary]:
        """The rows that a policy played."""
        return [row for row in self.rows if is_policy(row)]


def sets_of(rows: Sequence[RowSummary]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.by_set))


def measures_of(rows: Sequence[RowSummary]) -> list[Measure]:
    """What the rows are scored by."""
    return list(dict.fromkeys(row.measure for row in rows))


def is_policy(row: RowSummary) -> bool:
    return row.name.startswith("policy")
