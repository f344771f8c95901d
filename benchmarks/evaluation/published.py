"""Published numbers of Router-R1's paper, with source and pool, to stand beside measured rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

_FILE = Path(__file__).with_suffix(".yaml")

_BASES = {"qwen": "Qwen2.5-3B-Instruct", "llama": "Llama-3.2-3B-Instruct"}
PUBLISHED = (*_BASES, "all", "none")
_TABLES = ("Table 1", "Table 3", "Table 5")  # all sets, the six candidates, no weight on cost

PublishedMetric = Literal["em", "f1", "raw_cost"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """Where the numbers are from."""

    title: str
    authors: str
    venue: str
    url: str


class PublishedRow(_Part):
    """One method in one table of the paper. Never measured here; `label` says so."""

    table: str
    method: str
    base: str  # the model that routes, or answers where the pool is empty
    pool: tuple[str, ...]  # candidates
    metric: PublishedMetric  # em and f1 in [0, 1]; raw_cost: see the file
    alpha: float  # weight of the cost reward
    scores: dict[str, float]  # by data set
    average: float | None  # the paper's own, over its data sets; None where it has none

    @property
    def label(self) -> str:
        """The row's name in a table of ours."""
        weighted = f", α={self.alpha:g}" if self.alpha else ""
        return f"{self.method}{weighted} ({self.base}; published)"


class _Row(_Part):
    method: str
    pool: str
    scores: tuple[float, ...]
    average: float | None = None
    alpha: float = 0.0


class _Table(_Part):
    table: str
    metric: PublishedMetric
    base: str
    datasets: tuple[str, ...]
    rows: tuple[_Row, ...]

    @model_validator(mode="after")
    def _full(self) -> _Table:
        for row in self.rows:
            if len(row.scores) != len(self.datasets):
                raise ValueError(
                    f"{self.table}, {row.method}: {len(row.scores)} scores for {len(self.datasets)} data sets"
                )
        return self


class Published(_Part):
    """The file of published numbers."""

    source: Source
    protocol: str
    pools: dict[str, tuple[str, ...]]
    tables: tuple[_Table, ...]

    def rows(self, metric: PublishedMetric, *, base: str | None = None) -> list[PublishedRow]:
        """Every published row of a metric, in the paper's order; of one base model, if named."""
        return [
            PublishedRow(
                table=table.table,
                method=row.method,
                base=table.base,
                pool=self.pools[row.pool],
                metric=table.metric,
                alpha=row.alpha,
                scores=dict(zip(table.datasets, row.scores, strict=True)),
                average=row.average,
            )
            for table in self.tables
            if table.metric == metric and base in (None, table.base)
            for row in table.rows
        ]


@cache
def published() -> Published:
    """The published numbers, from the file beside this one."""
    return Published.model_validate(yaml.safe_load(_FILE.read_text(encoding="utf-8")))


def published_rows(metric: PublishedMetric, sets: Sequence[str], which: str) -> list[PublishedRow]:
    """The paper's rows for a base model (one of PUBLISHED), if it has numbers for any of these sets."""
    if which == "none":
        return []
    return [
        row
        for row in published().rows(metric, base=_BASES.get(which))
        if row.table in _TABLES and not set(sets).isdisjoint(row.scores)
    ]


@dataclass(frozen=True, slots=True)
class Quoted:
    """A published row as an evaluation shows it: never measured here."""

    label: str
    metric: PublishedMetric
    table: str  # of the paper
    pool: tuple[str, ...] | None  # the paper's candidates; None where the paper's tables have no such row any more
    scores: Mapping[str, float]  # by data set
    average: float | None = None  # the paper's own


def quote(row: PublishedRow) -> Quoted:
    """A published row, as it ships."""
    return Quoted(row.label, row.metric, row.table, row.pool, row.scores, row.average)
