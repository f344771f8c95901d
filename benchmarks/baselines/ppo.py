"""The contextual router of RLlib's PPO: an episode is one question, one candidate, one reward."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from benchmarks.baselines.embedding import Embedder, Embeddings, widen
from benchmarks.baselines.router import AskingOrder, Router, best_columns, check_enough, cost_scale, utilities
from benchmarks.evaluation.reply_table import Floats, ReplyTable

ITERATIONS = 40
_QUESTIONS_AT_ONCE = 32  # environments in the sampling process
_EPISODES = 1024  # of an iteration
_LOGGERS = ("ray", "ray.rllib", "ray.tune")


class RoutingEnv(gymnasium.Env[np.ndarray, int]):
    """Single-step episodes over a reply table: the observation is a question's embedding, the action a candidate, the
    reward its reply's utility. Questions are drawn at random.

    Settings: `questions` (questions, dimensions), `utility` (questions, candidates), `seed`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._questions: Embeddings = settings["questions"]
        self._utility: Floats = settings["utility"]
        # RLlib numbers the environments of a worker.
        self._draw = np.random.default_rng([settings["seed"], getattr(settings, "vector_index", 0)])
        self._row = 0
        dimensions = (self._questions.shape[1],)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, dimensions, np.float32)
        self.action_space = gymnasium.spaces.Discrete(self._utility.shape[1])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._draw = np.random.default_rng(seed)
        self._row = int(self._draw.integers(len(self._questions)))
        return self._questions[self._row], {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._questions[self._row], float(self._utility[self._row, action]), True, False, {}


class PPO(Router):
    """Trained by RLlib's PPO (new API stack) on 40,000 single-step episodes; asks the candidate of the highest logit.

    It samples and learns in this process. Ray is started where it does not run yet, with one core, and stopped again.
    """

    learns_lambda = True

    def fit(self, train: ReplyTable) -> None:
        check_enough(train)
        from ray.rllib.algorithms.ppo import PPOConfig
        from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

        self._costs = train.cost_usd.mean(axis=0) / cost_scale(train)
        self._embedder = Embedder(self.terms)
        questions = widen(self._embedder.fit(train.queries))
        settings = {"questions": questions, "utility": utilities(train, self.lambda_), "seed": self.terms.seed}
        config = (
            PPOConfig()
            .environment(RoutingEnv, env_config=settings)
            .env_runners(num_env_runners=0, num_envs_per_env_runner=_QUESTIONS_AT_ONCE)
            .learners(num_learners=0)
            .training(
                gamma=0.0,
                lr=5e-4,
                train_batch_size_per_learner=_EPISODES,
                minibatch_size=256,
                num_epochs=4,
                entropy_coeff=0.01,
                use_kl_loss=False,
            )
            .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64], fcnet_activation="tanh"))
            .debugging(seed=self.terms.seed)
        )
        with _quiet(), self.running(), contextlib.closing(_Stopping(config.build_algo())) as running:
            for _ in range(ITERATIONS):
                found = running.algorithm.train()
            self._module = running.algorithm.get_module()
        self._utility = float(found["env_runners"]["episode_return_mean"])

    def running(self) -> contextlib.AbstractContextManager[None]:
        return _ray()

    def chosen(self) -> str:
        return f"mean utility in training {self._utility:.3f}"

    def route(self, table: ReplyTable) -> list[AskingOrder]:
        import torch

        questions = torch.as_tensor(widen(self._embedder.embed(table.queries)))
        with torch.no_grad():
            logits = self._module.forward_inference({"obs": questions})["action_dist_inputs"]
        return best_columns(logits.double().numpy(), self._costs)


class _Stopping:
    """An algorithm with `close`, which `contextlib.closing` calls."""

    def __init__(self, algorithm: Any) -> None:
        self.algorithm = algorithm

    def close(self) -> None:
        self.algorithm.stop()


@contextlib.contextmanager
def _ray() -> Iterator[None]:
    """Ray, started where it does not run yet, and then stopped."""
    import ray

    from actors.ray_start import init_own_ray

    if ray.is_initialized():
        yield
        return
    init_own_ray(num_cpus=1, configure_logging=False)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without RLlib's warnings on its own defaults and registrations."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Overriding environment", category=UserWarning)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
