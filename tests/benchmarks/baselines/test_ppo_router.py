"""The router of RLlib's PPO: episodes of one step, and it learns each candidate's subjects."""

from __future__ import annotations

import numpy as np
import pytest
from router_tables import topics_table

from benchmarks.baselines import ppo
from benchmarks.baselines.ppo import PPO, RoutingEnv
from benchmarks.baselines.router import Terms
from benchmarks.evaluation.means import summarise

pytestmark = pytest.mark.thorough


def test_an_episode_is_one_question_one_candidate_one_reward() -> None:
    from gymnasium.utils.env_checker import check_env

    questions = np.eye(4, 8, dtype=np.float32)
    utility = np.arange(12, dtype=np.float64).reshape(4, 3)
    env = RoutingEnv({"questions": questions, "utility": utility, "seed": 0})
    check_env(env, skip_render_check=True)
    seen = set()
    for _ in range(100):
        question, _ = env.reset()
        row = int(question.argmax())
        seen.add(row)
        _, reward, terminated, truncated, _ = env.step(2)
        assert (reward, terminated, truncated) == (utility[row, 2], True, False)
    assert seen == {0, 1, 2, 3}


@pytest.mark.engine
@pytest.mark.usefixtures("ray_cluster")
def test_it_learns_who_knows_what_and_what_cost_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ppo, "ITERATIONS", 12)
    train, test = topics_table(300, 1), topics_table(200, 2)
    router = PPO(Terms())
    router.fit(train)
    assert summarise(router.play(test)).em > 0.8  # the best alone: 0.7
    thrifty = PPO(Terms(10.0))
    thrifty.fit(train)
    assert set(thrifty.route(test)) == {(0,)}
    assert ray.is_initialized()  # the fixture started it, so the router must not stop it
