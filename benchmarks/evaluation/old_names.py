"""Old names: what files called the methods before each had one name, and those names read as today's.

`oracle` was the most competent candidate in a run's summary and the cheapest right one in an evaluation; `best_single`
was the best constant in hindsight in the first and the best constant in training in the second.
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
    "written before every method had one name: where its sentences say oracle, read "
    f"{METHODS[CHEAPEST_RIGHT].name}; where they say best single or best_constant, read "
    f"{METHODS[BEST_CONSTANT_TRAINING].name}"
)

Json = Mapping[str, Any]


def row_of_today(name: str) -> str:
    """The name of an evaluation's row, or of a baseline, as it is today."""
    method, at, pool = name.partition(" @ ")
    return f"{_ROWS.get(method, method)}{at}{pool}"


def summary_of_today(summary: Json) -> dict[str, Any]:
    """A run's summary with the keys of today."""
    ends = ("", UNSEEN)
    named = {f"{old}{end}": f"{new}{end}" for old, new in _RESULTS.items() for end in ends}
    return {named.get(key, key): value for key, value in summary.items()}


def evaluation_of_today(numbers: Json) -> dict[str, Any]:
    """The contents of `evaluation.json` with the names of today; a note says so where its sentences keep old ones.

    Raises:
        KeyError, TypeError, AttributeError: they are of another form.
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
