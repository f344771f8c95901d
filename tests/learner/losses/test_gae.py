"""GAE compared with a plain loop and with TRL's recorded numbers; tokens that were not sampled are skipped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.losses.gae import gae, whiten

RECORDED = json.loads((Path(__file__).parent / "trl_gae.json").read_text(encoding="utf-8"))["cases"]


def slow(
    reward: float, values: list[float], sampled: list[bool], paid: list[float], gamma: float, lam: float
) -> list[float]:
    """Equation 16 literally: for each sampled token the discounted sum of its delta and all later deltas."""
    places = [t for t, mine in enumerate(sampled) if mine]
    deltas = []
    for k, t in enumerate(places):
        last = k == len(places) - 1
        following = 0.0 if last else values[places[k + 1]]
        deltas.append(paid[t] + (reward if last else 0.0) + gamma * following - values[t])
    out = [0.0] * len(sampled)
    for k, t in enumerate(places):
        for ahead in range(len(places) - k):
            out[t] += (gamma * lam) ** ahead * deltas[k + ahead]
    return out


number = st.floats(-5, 5)
token = st.tuples(number, st.booleans(), number)
trajectories = st.lists(st.tuples(number, st.lists(token, min_size=1, max_size=12)), min_size=1, max_size=5)


def columns(drawn: list) -> tuple[list[float], list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    values = [np.array([v for v, _, _ in tokens]) for _, tokens in drawn]
    sampled = [np.array([s for _, s, _ in tokens]) for _, tokens in drawn]
    paid = [np.array([p for _, _, p in tokens]) for _, tokens in drawn]
    return [reward for reward, _ in drawn], values, sampled, paid


@settings(max_examples=60)
@given(trajectories, st.floats(0, 1), st.floats(0, 1))
def test_equals_a_plain_loop(drawn: list, gamma: float, lam: float) -> None:
    rewards, values, sampled, paid = columns(drawn)
    got = gae(rewards, values, sampled, gamma=gamma, lam=lam, token_rewards=paid)
    for i, reward in enumerate(rewards):
        expected = slow(reward, values[i].tolist(), sampled[i].tolist(), paid[i].tolist(), gamma, lam)
        np.testing.assert_allclose(got.advantages[i], expected, atol=1e-9)
        np.testing.assert_allclose(got.returns[i], np.where(sampled[i], expected + values[i], 0.0), atol=1e-9)


@settings(max_examples=60)
@given(trajectories, st.randoms(use_true_random=False))
def test_what_a_reply_puts_in_between_changes_nothing(drawn: list, random: object) -> None:
    """Sampled tokens get the same advantages without any context and with any context inserted."""
    rewards, values, sampled, paid = columns(drawn)
    bare = gae(
        rewards,
        [v[s] for v, s in zip(values, sampled, strict=True)],
        [s[s] for s in sampled],
        gamma=0.9,
        lam=0.8,
        token_rewards=[p[s] for p, s in zip(paid, sampled, strict=True)],
    )
    whole = gae(rewards, values, sampled, gamma=0.9, lam=0.8, token_rewards=paid)
    nonsense = [np.where(s, v, random.choice([np.nan, np.inf, 1e9])) for v, s in zip(values, sampled, strict=True)]
    again = gae(rewards, nonsense, sampled, gamma=0.9, lam=0.8, token_rewards=paid)
    for i, mask in enumerate(sampled):
        np.testing.assert_array_equal(whole.advantages[i][mask], bare.advantages[i])
        np.testing.assert_array_equal(again.returns[i], whole.returns[i])
        assert not whole.advantages[i][~mask].any()


def test_a_perfect_critic_leaves_no_advantage_and_lambda_one_is_reward_minus_value() -> None:
    sampled = [np.array([False, True, True, False, False, True])]
    perfect = gae([0.5], [np.full(6, 0.5)], sampled, gamma=1.0, lam=0.95)
    np.testing.assert_allclose(perfect.advantages[0], 0.0, atol=1e-12)
    monte_carlo = gae([2.0], [np.arange(6.0)], sampled, gamma=1.0, lam=1.0)
    np.testing.assert_allclose(monte_carlo.advantages[0], [0, 1, 0, 0, 0, -3])
    np.testing.assert_allclose(monte_carlo.returns[0], [0, 2, 2, 0, 0, 2])


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"gamma {case['gamma']} lambda {case['lam']}")
def test_equals_trl(case: dict) -> None:
    """If there is room, TRL counts one step more than the sampled tokens: the first padding token."""
    width, ends = len(case["values"][0]), case["sequence_lengths"]
    real = [np.arange(width) <= end for end in ends]
    played = [np.arange(width) <= end + 1 for end in ends]
    penalties = [
        np.where(mine, case["kl_coef"] * (np.array(ref) - np.array(own)), 0.0)
        for mine, ref, own in zip(real, case["ref_logprobs"], case["logprobs"], strict=True)
    ]
    values = [np.array(row) for row in case["values"]]
    got = gae(case["scores"], values, played, gamma=case["gamma"], lam=case["lam"], token_rewards=penalties)
    for mask, returns, expected in zip(played, got.returns, case["returns"], strict=True):
        np.testing.assert_allclose(returns[mask], np.array(expected)[mask], atol=1e-12)
    np.testing.assert_allclose(whiten(got.advantages, real), case["whitened"], atol=1e-12)


def test_whitening_sees_sampled_tokens_only() -> None:
    sampled = [np.array([False, True, True]), np.array([True, False])]
    got = whiten([np.array([99.0, 1.0, 2.0]), np.array([6.0, np.nan])], sampled)
    flat = np.concatenate([row[mask] for row, mask in zip(got, sampled, strict=True)])
    assert flat.mean() == pytest.approx(0.0, abs=1e-12)
    assert flat.var(ddof=1) == pytest.approx(1.0, abs=1e-6)
    assert got[0][0] == got[1][1] == 0.0
    np.testing.assert_array_equal(whiten([np.array([3.0])], [np.array([True])])[0], [0.0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gamma": 1.1}, r"gamma=1.1 must lie in \[0, 1\]"),
        ({"lam": -0.1}, r"lam=-0.1 must lie"),
        ({"values": [np.zeros(2)]}, r"values\[0\] must have one entry per token, got \(2,\) for \(3,\)"),
        ({"values": []}, "values must have one array per trajectory, got 0 for 1"),
        ({"values": [np.array([0.0, 0.0, np.nan])]}, r"values\[0\]\[2\]=nan is not finite"),
        ({"rewards": [np.inf]}, "rewards must be 1 finite numbers"),
        ({"rewards": [1.0, 2.0]}, "rewards must be 1 finite numbers"),
    ],
)
def test_refuses(change: dict, says: str) -> None:
    sound = {"rewards": [1.0], "values": [np.zeros(3)], "sampled": [np.array([False, True, True])]}
    with pytest.raises(ValueError, match=says):
        gae(**(sound | {"gamma": 1.0, "lam": 1.0} | change))
