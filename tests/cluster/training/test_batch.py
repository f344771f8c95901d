"""The batch: void episodes are left out, whole groups are admitted by version, and metrics add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from made_up import trajectory

from actors.pool.stats import CallerStats
from cluster.episodes.judging import judge_all, spent_cap
from cluster.runs.metrics import undeclared
from cluster.training.batch import RolloutError, admit
from cluster.training.step_metrics import batch_metrics, pool_metrics
from rewards.presets import Judge
from rewards.settings import RewardSettings
from rewards.transcript import CallStatus, RouteCall, StopReason, Transcript, Turn


@pytest.mark.parametrize(("cap", "final"), [("run", True), ("day", True), ("step", False), ("provider", False)])
def test_only_caps_of_the_run_and_the_day_end_a_run(cap: str, final: bool) -> None:
    call = RouteCall("zumo", "geologist", "q", CallStatus.OVER_BUDGET, error=f"would break pool.cap_usd_per_{cap}=1")
    refused = replace(trajectory("a"), transcript=Transcript((Turn("", (), (call,)),), StopReason.VOID))
    assert (spent_cap([trajectory("a"), refused]) == call.error) is final
    assert spent_cap([trajectory("a", void=True)]) is None


def test_the_pool_s_numbers_are_declared() -> None:
    stats = CallerStats(attempts=7, usd=Counter({"geologist": 0.5, "a/b": 0.25}), breakers={"x:1": "open"})
    stats.limits = {"x:1": 3}
    row = pool_metrics(stats)
    assert undeclared(row) == []
    assert row["cost/usd_total"] == 0.75
    assert row["pool/breakers_open"] == 1


def test_void_episodes_get_no_reward_and_leave_their_group() -> None:
    judged = judge_all([trajectory("a"), trajectory("a"), trajectory("a", void=True)], Judge(RewardSettings()))
    assert [t.reward is None for t in judged] == [False, False, True]
    assert admit(judged, version=3, max_staleness=0) == judged[:2]


def test_a_group_that_void_episodes_leave_alone_is_dropped() -> None:
    judged = judge_all([trajectory("a"), trajectory("a", void=True), *[trajectory("b")] * 2], Judge(RewardSettings()))
    assert {t.group for t in admit(judged, version=3, max_staleness=0)} == {"b"}


def test_a_group_with_one_stale_member_is_dropped_whole() -> None:
    judged = judge_all([trajectory("a"), trajectory("a", version=2), *[trajectory("b")] * 2], Judge(RewardSettings()))
    assert {t.group for t in admit(judged, version=3, max_staleness=0)} == {"b"}
    assert {t.group for t in admit(judged, version=3, max_staleness=1)} == {"a", "b"}


def test_when_nothing_is_left_the_error_tells_what_the_calls_came_to() -> None:
    judged = judge_all([trajectory("a", void=True)] * 2, Judge(RewardSettings()))
    with pytest.raises(RolloutError, match="2 of 2 episodes are void; the last call to geologist ended timeout: late"):
        admit(judged, version=3, max_staleness=0)


def test_metrics_are_declared_and_add_up() -> None:
    judged = judge_all(
        [trajectory("a"), trajectory("a", answer="no"), trajectory("a", void=True)], Judge(RewardSettings())
    )
    row = batch_metrics(judged, rollout_s=2.0)
    assert undeclared(row) == []
    assert row["train/em"] == 0.5
    assert row["rollout/void_share"] == pytest.approx(1 / 3)
    assert row["cost/usd_per_1k_questions"] == pytest.approx(2.0)
    assert row["rollout/tokens_per_s"] == 3.0
    assert row["rollout/call_status/timeout"] == pytest.approx(1 / 3)
