"""Old names: translates the names that methods have in old files into today's names.

In a run's summary, `oracle` was the most competent candidate and `best_single` the best constant in hindsight. In an
evaluation, `oracle` was the cheapest right candidate and `best_single` the best constant in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.evaluation.methods import (
    BEST_CONSTANT_HINDSIGHT,
    BEST_CONSTANT_TRAINING,
    CHEAPEST_RIGHT,
    METHODS,
    MOST_COMPETENT,
    UNSEEN,
)

_RESULTS = {"oracle": MOST_COMPETENT, "best_single": BEST_CONSTANT_HINDSIGHT}  # of a run's summary
_ROWS = {"oracle": CHEAPEST_RIGHT, "best_constant": BEST_CONSTANT_TRAINING}  # of an evaluation
_POOL_FIELDS = {
    "oracle": f"{CHEAPEST_RIGHT}_em",
    "oracle_usd_per_1k": f"{CHEAPEST_RIGHT}_usd_per_1k",
    "of_oracle": f"of_{CHEAPEST_RIGHT}",
    "best_single": BEST_CONSTANT_TRAINING,
    "best_single_em": f"{BEST_CONSTANT_TRAINING}_em",
    "best_single_usd_per_1k": f"{BEST_CONSTANT_TRAINING}_usd_per_1k",
    "against_best_single": f"against_{BEST_CONSTANT_TRAINING}",
}
_NOTE = (
    "written before every method had one name: in its sentences, oracle means "
    f"{METHODS[CHEAPEST_RIGHT].name}; best single and best_constant mean "
    f"{METHODS[BEST_CONSTANT_TRAINING].name}"
)

Json = Mapping[str, Any]


def row_of_today(name: str) -> str:
    """Today's name of an evaluation's row or of a baseline."""
    method, at, pool = name.partition(" @ ")
    return f"{_ROWS.get(method, method)}{at}{pool}"


def summary_of_today(summary: Json) -> dict[str, Any]:
    """A run's summary with today's keys."""
    ends = ("", UNSEEN)
    named = {f"{old}{end}": f"{new}{end}" for old, new in _RESULTS.items() for end in ends}
    return {named.get(key, key): value for key, value in summary.items()}


def evaluation_of_today(numbers: Json) -> dict[str, Any]:
    """The contents of `evaluation.json` with today's names; its sentences keep old names, which an added note explains.

    Raises:
        KeyError, TypeError, AttributeError: the contents have another form.
    """
    parts: dict[str, Callable[[Any], Any]] = {"rows": _rows, "against": _against, "pools": _pools}
    found = {key: parts[key](value) if key in parts and value else value for key, value in numbers.items()}
    return found if found == numbers else found | {"notes": [*numbers.get("notes", ()), _NOTE]}


def _rows(rows: Sequence[Json]) -> list[Json]:
    return [{**row, "name": row_of_today(row["name"])} for row in rows]


def _against(compared: Mapping[str, Json]) -> Json:
    return {row_of_today(name): {**row, "reference": row_of_today(row["reference"])} for name, row in compared.items()}


def _pools(pools: Json) -> Json:
    rows = [{_POOL_FIELDS.get(key, key): value for key, value in row.items()} for row in pools["rows"]]
    return {**pools, "rows": rows}
