"""The world bench: each figure holds if it meets its target, and only then."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from cluster.benches.world import (
    PLAN,
    SEEDS,
    figures,
    fingerprint,
    largest_step,
    share_over_most_competent,
    train_once,
)

EVEN = {"best": 0.5, "cheap": 0.5}


def summary(em: float, cost: float, shares: dict[str, float] | None = None) -> dict[str, Any]:
    after = {"em": em, "cost_usd_per_1k_questions": cost, "call_share": shares or {"best": 1.0}}
    ideal = {"em": 0.93, "cost_usd_per_1k_questions": 0.5, "call_share": {"best": 1.0}}
    return {
        "before": {"em": 0.5},
        "after": after,
        "most_competent": ideal,
        "best_constant_hindsight": {"em": 0.68},
        "random": {"em": 0.2, "call_share": EVEN},
        "after_unseen": {"em": 0.85},
        "most_competent_unseen": {"em": 0.93},
        "wall_s": 300.0,
        "peak_bytes": 2**32,
        "probe_max_diff": 1e-5,
        "first_step_ratio_deviation": 1e-5,
    }


@pytest.fixture
def runs() -> dict[tuple[int, float], dict[str, Any]]:
    learnt = {0.0: (0.88, 0.46), 0.3: (0.87, 0.3), 0.6: (0.84, 0.12), 0.9: (0.82, 0.04)}
    return {(seed, alpha): summary(*learnt[alpha]) for seed, alpha in PLAN}


def held(runs: dict[tuple[int, float], dict[str, Any]], words: str) -> bool | None:
    (figure,) = (f for f in figures(runs) if f.figure.startswith(words))
    return figure.holds


def test_good_runs_hold_every_target(runs: dict[tuple[int, float], dict[str, Any]]) -> None:
    assert [f.figure for f in figures(runs) if f.holds is False] == []


@pytest.mark.parametrize(
    ("words", "key", "path", "value"),
    [
        ("engine against learner", (2, 0.6), ("probe_max_diff",), 0.01),
        ("first-step ratio", (0, 0.9), ("first_step_ratio_deviation",), 0.01),
        ("wall time", (0, 0.0), ("wall_s",), 700.0),
        ("peak memory", (0, 0.6), ("peak_bytes",), 9 * 2**30),
        ("largest call share", (0, 0.0), ("after", "call_share"), {"best": 0.2, "cheap": 0.8}),
    ],
)
def test_one_bad_run_is_enough(
    runs: dict[tuple[int, float], dict[str, Any]], words: str, key: Any, path: tuple[str, ...], value: object
) -> None:
    assert held(runs, words) is True
    bad = copy.deepcopy(runs)
    place = bad[key]
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    assert held(bad, words) is False


def test_the_targets_of_the_trained_policy_can_fail(runs: dict[tuple[int, float], dict[str, Any]]) -> None:
    for seed in SEEDS:
        runs[seed, 0.0] = summary(0.72, 0.2)
    assert held(runs, "exact match over the most competent candidate's, α = 0") is False
    assert held(runs, "over the best constant in hindsight") is False
    assert held(runs, "cost, α = 0.6") is False


def test_a_report_from_before_each_method_had_one_name_is_read(tmp_path: Path) -> None:
    file = tmp_path / f"{fingerprint()}-seed0-alpha0" / "bench.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"oracle": {"em": 0.9}, "oracle_unseen": {"em": 0.8}, "best_single": {"em": 0.7}}))
    found = train_once(0, 0.0, tmp_path)
    assert found == {
        "most_competent": {"em": 0.9}, "most_competent_unseen": {"em": 0.8}, "best_constant_hindsight": {"em": 0.7},
    }  # fmt: skip


def test_a_knob_that_jumps_rises_or_does_nothing_is_told() -> None:
    assert largest_step([0.5, 0.3, 0.15, 0.05]).holds
    assert not largest_step([0.5, 0.05, 0.04, 0.03]).holds
    assert largest_step([0.1, 0.2, 0.3, 0.4]).value == math.inf
    assert largest_step([0.5, 0.5, 0.5, 0.5]).value == math.inf


def test_an_expert_is_compared_with_its_own_share_and_a_needless_one_with_an_even_share() -> None:
    assert share_over_most_competent(summary(0.9, 0.5, {"best": 0.9, "cheap": 0.1})) == pytest.approx(0.9)
    assert share_over_most_competent(summary(0.9, 0.5, {"best": 0.1, "cheap": 0.9})) == pytest.approx(1.8)


def test_the_fingerprint_is_stable() -> None:
    assert fingerprint() == fingerprint()
    assert len(fingerprint()) == 8
