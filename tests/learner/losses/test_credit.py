"""Credit: the recipe's estimator is used, and each advantage reaches its own token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actors.episodes.trajectory import Trajectory
from learner.batching import collate, make_samples
from learner.losses.advantages import estimate
from learner.losses.component_advantages import component_advantages
from learner.losses.credit import assign_credit, assign_token_credit, credited_samples, explained_variance, with_signal
from learner.losses.gae import gae, whiten
from learner.losses.scores import SampleScores
from learner.settings import CriticSettings, LearnerSettings
from tests.learner.conftest import random_trajectories


@pytest.fixture
def trajectories() -> list[Trajectory]:
    return random_trajectories(np.random.default_rng(3), groups=4, size=3)


def totals(trajectories: list[Trajectory]) -> list[float]:
    return [t.reward.total for t in trajectories if t.reward is not None]


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"])
def test_total_rewards_go_to_the_estimator_of_the_recipe(estimator: str, trajectories: list[Trajectory]) -> None:
    got = assign_credit(trajectories, LearnerSettings(estimator=estimator))
    np.testing.assert_array_equal(
        got.values, estimate(totals(trajectories), [t.group for t in trajectories], estimator).values
    )
    assert got.values.any()


def with_parts(trajectory: Trajectory, **parts: float) -> Trajectory:
    assert trajectory.reward is not None
    return replace(trajectory, reward=replace(trajectory.reward, components=parts))


def test_components_go_by_name_with_their_dataset_and_weight(trajectories: list[Trajectory]) -> None:
    parted = [
        replace(
            with_parts(t, outcome=float(i % 2), cost=float(i % 3)),
            question=replace(t.question, dataset="ab"[t.group > trajectories[5].group]),
        )
        for i, t in enumerate(trajectories)
    ]
    settings = LearnerSettings(advantages_by="components", component_weights={"cost": 0.3})
    expected = component_advantages(
        {"outcome": [i % 2 for i in range(12)], "cost": [i % 3 for i in range(12)]},
        [t.group for t in parted],
        [t.question.dataset for t in parted],
        {"cost": 0.3},
    )
    np.testing.assert_array_equal(assign_credit(parted, settings).values, expected.values)
    assert len({t.question.dataset for t in parted}) == 2
    with pytest.raises(ValueError, match="component_weights names 'style'; the reward's components are"):
        assign_credit(parted, LearnerSettings(advantages_by="components", component_weights={"style": 1}))


def test_refuses_what_was_not_judged_or_not_alike(trajectories: list[Trajectory]) -> None:
    unjudged = [*trajectories[:3], replace(trajectories[3], reward=None)]
    with pytest.raises(ValueError, match=r"reward is None \(answered\); reward it, or drop the group"):
        assign_credit(unjudged, LearnerSettings())
    parted = [with_parts(t, outcome=1.0) for t in trajectories]
    odd = [*parted[:5], with_parts(parted[5], outcome=1.0, cost=0.0), *parted[6:]]
    with pytest.raises(ValueError, match=r"has the components \['outcome'\], others .* \['cost', 'outcome'\]"):
        assign_credit(odd, LearnerSettings(advantages_by="components"))


def test_advantages_per_token_reach_their_tokens(trajectories: list[Trajectory]) -> None:
    rng = np.random.default_rng(5)
    masks = [t.sampled for t in trajectories]
    values = [rng.normal(size=len(mask)) for mask in masks]
    found = gae(totals(trajectories), values, masks, gamma=1.0, lam=0.9)
    advantages = whiten(found.advantages, masks)
    samples = make_samples(trajectories, advantages)
    batch = collate(samples)
    wanted = {t.token_ids.tobytes(): a[t.sampled] for t, a in zip(trajectories, advantages, strict=True)}
    laid = np.concatenate([wanted[s.token_ids.tobytes()] for s in samples])
    np.testing.assert_array_equal(batch.advantages, laid.astype(np.float32))
    assert batch.advantages.mean() == pytest.approx(0.0, abs=1e-6)


def test_one_advantage_holds_for_every_token(trajectories: list[Trajectory]) -> None:
    one_each = np.arange(len(trajectories)) / 7
    constant = [np.full(len(t.token_ids), a) for t, a in zip(trajectories, one_each, strict=True)]
    np.testing.assert_array_equal(
        collate(make_samples(trajectories, one_each)).advantages,
        collate(make_samples(trajectories, constant)).advantages,
    )


def test_advantages_of_another_length_are_refused(trajectories: list[Trajectory]) -> None:
    with pytest.raises(ValueError, match=r"advantages must be one number or one per token, got \(2,\)"):
        make_samples(trajectories, [np.zeros(2)] * len(trajectories))


def test_a_critic_gives_credit_to_tokens(trajectories: list[Trajectory]) -> None:
    """Rewards at the last token and penalties at each token, compared with GAE on arrays written by hand."""
    rng = np.random.default_rng(6)
    mute = replace(trajectories[4], sampled=np.zeros_like(trajectories[4].sampled))
    batch = [*trajectories[:4], mute, *trajectories[5:]]
    masks = [t.sampled for t in batch]
    scores = {
        i: SampleScores(*(rng.normal(size=int(m.sum())).astype(np.float32) for _ in range(3)))
        for i, m in enumerate(masks)
        if m.any()
    }
    credit = assign_token_credit(batch, CriticSettings(kind="model", gamma=0.98, lam=0.9), scores)
    laid = [np.zeros((2, len(m))) for m in masks]
    for i, found in scores.items():
        assert found.values is not None
        laid[i][0, masks[i]], laid[i][1, masks[i]] = found.values, -found.kl_penalties
    values, penalties = [a[0] for a in laid], [a[1] for a in laid]
    wanted = gae(totals(batch), values, masks, gamma=0.98, lam=0.9, token_rewards=penalties)
    for got, expected in zip(credit.returns, wanted.returns, strict=True):
        np.testing.assert_array_equal(got, expected)
    for got, expected in zip(credit.advantages, whiten(wanted.advantages, masks), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert credit.share_without_signal == 0
    with pytest.raises(ValueError, match="call assign_token_credit"):
        assign_credit(batch, LearnerSettings(estimator="gae", critic=CriticSettings(kind="head")))


def test_explained_variance() -> None:
    returns = np.array([1.0, 2.0, 4.0])
    assert explained_variance(returns + 3, returns) == 1, "a constant error explains all the same"
    assert explained_variance(np.ones(3), returns) == pytest.approx(0)
    assert explained_variance(-returns, returns) == pytest.approx(-3)
    assert explained_variance(returns, np.ones(3)) == 0


def rewarded(trajectory: Trajectory, total: float, **parts: float) -> Trajectory:
    assert trajectory.reward is not None
    return replace(trajectory, reward=replace(trajectory.reward, total=total, components=parts))


def test_groups_without_signal_are_dropped_whole_and_counted(trajectories: list[Trajectory]) -> None:
    first = trajectories[0].group
    batch = [rewarded(t, float(t.group != first and t.seed), cost=float(t.seed)) for t in trajectories]
    kept, dropped = with_signal(batch, LearnerSettings())
    assert (len(kept), dropped) == (9, 1)
    assert kept == [t for t in batch if t.group != first]
    by_parts = LearnerSettings(advantages_by="components")
    assert with_signal(batch, by_parts) == (batch, 0), "its cost differs"
    silent = LearnerSettings(advantages_by="components", component_weights={"cost": 0.0})
    assert with_signal(batch, silent) == ([], 4)
    assert with_signal([], LearnerSettings()) == ([], 0)


def test_a_kl_penalty_alone_is_no_signal(trajectories: list[Trajectory]) -> None:
    rng = np.random.default_rng(8)
    batch = [rewarded(t, 1.0) for t in trajectories]
    penalties = rng.random(len(batch)).tolist()
    found = assign_credit(batch, LearnerSettings(kl_in="reward", estimator="grpo"), penalties)
    assert not found.values.any()
    assert found.share_without_signal == 1


@pytest.mark.parametrize("estimator", ["grpo", "gae"])
def test_what_was_scored_goes_with_the_samples(estimator: str, trajectories: list[Trajectory]) -> None:
    rng = np.random.default_rng(9)
    scores = {
        place: SampleScores(*(rng.normal(size=int(t.sampled.sum())).astype(np.float32) for _ in range(4)))
        for place, t in enumerate(trajectories)
    }
    critic = CriticSettings(kind="head" if estimator == "gae" else "none")
    settings = LearnerSettings(kl_in="reward", estimator=estimator, critic=critic)
    samples, _ = credited_samples(trajectories, settings, scores)
    by_tokens = {t.token_ids.tobytes(): scores[place] for place, t in enumerate(trajectories)}
    for sample in samples:
        assert sample.ref_logprobs is by_tokens[sample.token_ids.tobytes()].ref_logprobs
        assert sample.old_logprobs is by_tokens[sample.token_ids.tobytes()].logprobs
