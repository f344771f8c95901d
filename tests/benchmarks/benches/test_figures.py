"""Figures: their rows, and the exit status that follows from them."""

from __future__ import annotations

import io
import json

import pytest

from benchmarks.benches.figures import Figure, at_least, at_most, report
from cluster.benches.suite import UnknownBench, run_bench


def test_the_median_is_held_against_the_target() -> None:
    assert at_most("t", [3.0, 1.0, 2.0], "s", 2.0) == Figure("t", 2.0, "s", "<= 2", True, (1.0, 3.0))
    assert at_most("t", [3.0, 1.0, 2.5], "s", 2.0).holds is False
    assert at_least("t", [3.0, 1.0, 2.0], "", 2.0).holds is True
    assert at_least("t", [1.0], "", 2.0).holds is False


@pytest.mark.parametrize("as_json", [True, False])
def test_the_status_is_1_where_a_target_does_not_hold(as_json: bool) -> None:
    good, free, bad = at_most("a", [1.0], "s", 2.0), Figure("b", 1.0, "", "", None), at_most("c", [3.0], "s", 2.0)
    assert report([good, free], io.StringIO(), as_json=as_json) == 0
    assert report([good, free, bad], io.StringIO(), as_json=as_json) == 1


def test_json_has_a_row_per_figure() -> None:
    out = io.StringIO()
    report([at_most("a", [1.0], "s", 2.0)], out, as_json=True)
    row = {"figure": "a", "value": 1.0, "unit": "s", "target": "<= 2", "holds": True, "spread": [1.0, 1.0]}
    assert json.loads(out.getvalue()) == [row]


def test_an_unknown_bench_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownBench, match="startup, survival, sync, world"):
        run_bench("speed")
