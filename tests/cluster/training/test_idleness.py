"""The idleness: shares of a step, and advice that names the setting to change."""

from __future__ import annotations

import pytest

from actors.load import LoadReading
from actors.pool.stats import CallerStats
from cluster.config.loading import load_config
from cluster.training.idleness import Readings, advice, idleness


def test_shares_of_a_step() -> None:
    before = Readings({"a": LoadReading(10, 5, 50), "lost": LoadReading(9, 9, 9)}, CallerStats(up_s=10, busy_s=2))
    after = Readings(
        {"a": LoadReading(20, 9, 130), "new": LoadReading(3, 0, 0)}, CallerStats(up_s=20, busy_s=9.5), [16, 12]
    )
    row = idleness(before, after, learn_s=2.5, step_s=10, target=16)
    assert row == pytest.approx(
        {
            "idle/learner": 0.75,
            "idle/engines": 0.6,
            "rollout/generating": 8,
            "rollout/engine_fill": 0.5,
            "rollout/engine_target": 12,
            "idle/callers": 0.25,
        }
    )


def test_what_nobody_told_is_left_out() -> None:
    before = Readings({"lost": LoadReading(9, 9, 9)}, CallerStats(up_s=10, busy_s=2))
    after = Readings({"new": LoadReading(3, 0, 0)}, CallerStats(up_s=1, busy_s=1))  # the caller was restarted
    assert idleness(before, after, learn_s=1, step_s=2, target=16) == {"idle/learner": 0.5}
    assert advice({"idle/learner": 0.5}, load_config("quickstart")) is None


@pytest.mark.parametrize(
    ("engines", "learner", "staleness", "named"),
    [
        (0.6, 0.5, 0, "raise run.max_staleness (0)"),
        (0.6, 0.05, 2, "learner.ranks"),
        (0.6, 0.9, 0, "run.groups_per_step"),
        (0.6, 0.5, 2, "waiting for candidates (1.5 s a call)"),
        (0.05, 0.7, 1, "placement.rollout_workers"),
        (0.05, 0.7, 0, None),  # at staleness 0 engines and learner take turns
        (0.3, 0.3, 1, None),
    ],
)
def test_advice_names_who_starves_and_what_to_set(
    engines: float, learner: float, staleness: int, named: str | None
) -> None:
    row = {"idle/engines": engines, "idle/learner": learner, "rollout/call_latency_s": 1.5}
    said = advice(row, load_config("quickstart", [f"run.max_staleness={staleness}"]))
    assert (said is None) if named is None else (said is not None and named in said)


@pytest.mark.parametrize(("holds", "told"), [(20, True), (48, True), (49, False), (64, False)])
def test_advice_names_the_memory_of_an_engine_that_holds_too_few(holds: int, told: bool) -> None:
    row = {"idle/engines": 0.1, "idle/learner": 0.1, "rollout/engine_target": holds}
    said = advice(row, load_config("quickstart", ["engine.max_num_seqs=64"]))
    assert told == (said is not None)
    if said is not None:
        assert f"holds {holds} sequences" in said
        assert "engine.kv_cache_gib=" in said
