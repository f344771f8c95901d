"""Numbers in JSON and back: what is not known stays unknown, and a damaged file is not read as something else."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_items import item, made_row

from benchmarks.evaluation.json_numbers import from_json, to_json
from benchmarks.evaluation.pool_table import Played, Pool, PoolTable, pool_rows
from benchmarks.evaluation.row_summary import RowSummary, summarise_row
from benchmarks.evaluation.statistics import Interval

FEW = 199


def test_json_has_no_nan_and_no_numpy() -> None:
    told = to_json({1: math.nan, "a": [np.float64(0.5), np.int64(3), -math.inf], "b": (True, None, Path("x/y"))})
    assert told == {"1": None, "a": [0.5, 3, None], "b": [True, None, "x/y"]}
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_a_row_is_read_as_it_was_written() -> None:
    row = summarise_row("policy", made_row("policy", 1, {"nq": 20, "popqa": 10}, samples=2), resamples=FEW)
    assert len(row.by_hops) > 1
    assert from_json(RowSummary, json.loads(json.dumps(to_json(row)))) == row


def test_bounds_that_are_not_known_are_nan_again_and_a_missing_f1_is_none() -> None:
    row = summarise_row("policy", [item(f1=None)], resamples=FEW)
    read = from_json(RowSummary, to_json(row))
    assert math.isnan(read.em.low)
    assert not read.em.known
    assert read.f1 is None
    assert read.by_set["nq"].f1 is None


def test_pools_with_and_without_bounds_are_read_as_they_were_written() -> None:
    mine, best = made_row("policy", 0, {"nq": 20}), made_row("best", 1, {"nq": 20})
    rows = pool_rows([Played("seen", "policy", mine, 0, (), best, best), Played("x", "policy", best, 1, mine)], FEW)
    table = PoolTable([Pool("seen", "abc", {"alpha": {"price_in_usd_per_mtok": 1.0}})], rows, ["a note"])
    assert from_json(PoolTable, json.loads(json.dumps(to_json(table)))) == table


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"mean": "high"}, ValueError),
        ({"questions": None}, TypeError),
        ({"low": [1]}, TypeError),
    ],
)
def test_other_types_are_refused(change: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        from_json(Interval, to_json(Interval(0.5, 0.4, 0.6, 9)) | change)


def test_a_missing_field_is_named_and_a_name_must_be_text() -> None:
    row = to_json(replace(summarise_row("policy", [item()], resamples=FEW), name="a"))
    with pytest.raises(KeyError, match="calls"):
        from_json(RowSummary, {name: value for name, value in row.items() if name != "calls"})
    with pytest.raises(TypeError, match="7 is no text"):
        from_json(RowSummary, row | {"name": 7})
