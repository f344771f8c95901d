"""Credit: the advantages of a batch of trajectories, computed by the recipe's estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from actors.episodes.trajectory import Trajectory
from learner.batching import Sample, canonical_order, make_samples
from learner.losses.advantages import Advantages, Floats, Groups, estimate, groups_with_signal
from learner.losses.component_advantages import component_advantages
from learner.losses.gae import gae, whiten
from learner.losses.scores import SampleScores
from learner.settings import CriticSettings, LearnerSettings
from rewards.presets import RewardBreakdown


@dataclass(frozen=True, slots=True)
class TokenCredit:
    """Credit per token, with a critic: for each trajectory an array `[T]`, 0 where the policy did not sample."""

    advantages: list[Floats]  # mean 0 and variance 1 over the sampled tokens of the batch
    returns: list[Floats]  # the critic's targets
    explained_variance: float  # 1 - Var(return - value) / Var(return) over sampled tokens; 0 if all returns are equal
    share_without_signal: float  # share of groups with one member or with equal rewards


def credited_samples(
    trajectories: Sequence[Trajectory], settings: LearnerSettings, scores: Mapping[int, SampleScores]
) -> tuple[list[Sample], dict[str, float]]:
    """The samples to train on, with their credit, and the metrics of that credit.

    Args:
        scores: by index in `trajectories`; empty if `settings.scores_first` is false.

    Raises:
        ValueError: as `assign_credit` and `make_samples`.
    """
    order = canonical_order(trajectories)
    if settings.estimator == "gae":
        credit = assign_token_credit(trajectories, settings.critic, scores)
        samples = [
            replace(
                sample,
                old_logprobs=scores[order[sample.index]].logprobs,
                ref_logprobs=scores[order[sample.index]].ref_logprobs,
                old_values=scores[order[sample.index]].values,
                returns=credit.returns[order[sample.index]][sample.sampled].astype(np.float32),
            )
            for sample in make_samples(trajectories, credit.advantages)
        ]
        return samples, {
            "groups_without_signal": credit.share_without_signal,
            "explained_variance": credit.explained_variance,
        }
    penalties = None
    if settings.kl_in == "reward":
        penalties = [scores[place].kl_penalty if place in scores else 0.0 for place in range(len(trajectories))]
    advantages = assign_credit(trajectories, settings, penalties)
    samples = make_samples(trajectories, advantages.values)
    if scores:
        samples = [
            replace(
                sample,
                old_logprobs=scores[order[sample.index]].logprobs,
                ref_logprobs=scores[order[sample.index]].ref_logprobs,
            )
            for sample in samples
        ]
    return samples, {"groups_without_signal": advantages.share_without_signal}


def assign_credit(
    trajectories: Sequence[Trajectory], settings: LearnerSettings, penalties: Sequence[float] | None = None
) -> Advantages:
    """Advantages `[n]` of whole groups, in the order of `trajectories`, by any estimator but gae.

    `penalties` `[n]` are subtracted from the total rewards. With `kl_in=reward` they are the weighted KL to the
    reference policy, summed over the trajectory's sampled tokens (Ziegler et al. 2019, arXiv 1909.08593, equation 2).
    Penalties give no signal to a group whose rewards are all equal.

    Raises:
        ValueError: there are no trajectories, a reward is missing or not finite, the trajectories don't all have the
            same reward components, or the estimator is gae.
    """
    if settings.estimator == "gae":
        raise ValueError("estimator=gae gives credit to tokens; call assign_token_credit with the critic's values")
    rewards = [_reward(t) for t in trajectories]
    groups = [t.group for t in trajectories]
    if settings.advantages_by == "total":
        return estimate([r.total for r in rewards], groups, settings.estimator, penalties)
    datasets = [t.question.dataset for t in trajectories]
    return component_advantages(_components(trajectories), groups, datasets, settings.component_weights)


def with_signal(trajectories: Sequence[Trajectory], settings: LearnerSettings) -> tuple[list[Trajectory], int]:
    """The judged trajectories whose group has signal, in their order, and the number of groups without signal.

    A group has signal if its members' total rewards differ or, with `advantages_by=components`, if their values of a
    component with a weight above 0 differ. The metric `KEEP_RATE` is the share of groups kept.

    Raises:
        ValueError: as `assign_credit`.
    """
    if not trajectories:
        return [], 0
    groups = [t.group for t in trajectories]
    if settings.advantages_by == "total":
        kept = groups_with_signal([_reward(t).total for t in trajectories], groups)
    else:
        weights = settings.component_weights
        parts = [values for name, values in _components(trajectories).items() if weights.get(name, 1.0) > 0]
        kept = frozenset().union(*(groups_with_signal(values, groups) for values in parts))
    return [t for t in trajectories if t.group in kept], len(set(groups) - kept)


def _components(trajectories: Sequence[Trajectory]) -> dict[str, list[float]]:
    """Each component's values, in the order of `trajectories`."""
    rewards = [_reward(t) for t in trajectories]
    names = sorted({name for r in rewards for name in r.components})
    for t, r in zip(trajectories, rewards, strict=True):
        if len(r.components) != len(names):
            raise ValueError(
                f"trajectory of group {t.group!r} seed {t.seed}: its reward has the components "
                f"{sorted(r.components)}, others of the batch have {names}; judge all by one preset"
            )
    return {name: [r.components[name] for r in rewards] for name in names}


def assign_token_credit(
    trajectories: Sequence[Trajectory], critic: CriticSettings, scores: Mapping[int, SampleScores]
) -> TokenCredit:
    """GAE's advantages, whitened over the batch, and the returns; in the order of `trajectories`.

    The total reward is paid at a trajectory's last sampled token. With `kl_in=reward` every sampled token pays its
    own weighted KL to the reference policy (Ouyang et al. 2022, arXiv 2203.02155, equation 2).

    Args:
        scores: by index in `trajectories`, with the critic's values; trajectories without sampled tokens have none.

    Raises:
        ValueError: a reward is missing or not finite, or a critic's value is not finite.
    """
    rewards = np.array([_reward(t).total for t in trajectories])
    sampled = [t.sampled for t in trajectories]
    values = [_on_tokens(t.sampled, scores[i].values if i in scores else None) for i, t in enumerate(trajectories)]
    penalties = [
        _on_tokens(t.sampled, -scores[i].kl_penalties if i in scores else None) for i, t in enumerate(trajectories)
    ]
    credit = gae(rewards, values, sampled, gamma=critic.gamma, lam=critic.lam, token_rewards=penalties)
    groups = Groups.of([t.group for t in trajectories])
    return TokenCredit(
        advantages=whiten(credit.advantages, sampled),
        returns=credit.returns,
        explained_variance=explained_variance(
            np.concatenate([v[m] for v, m in zip(values, sampled, strict=True)]),
            np.concatenate([r[m] for r, m in zip(credit.returns, sampled, strict=True)]),
        ),
        share_without_signal=float((~groups.varies(rewards)).mean()),
    )


def explained_variance(values: Floats, returns: Floats) -> float:
    """1 - Var(return - value) / Var(return) over `[n]` tokens: 1 for a perfect critic, 0 for a constant one.

    A critic worse than a constant gets less than 0; if all returns are equal, the result is 0.
    """
    spread = float(np.var(returns))
    return 1.0 - float(np.var(returns - values)) / spread if spread > 0 else 0.0


def _on_tokens(sampled: npt.NDArray[np.bool_], given: npt.NDArray[np.float32] | None) -> Floats:
    """An array `[T]` with `given` `[n]` at the sampled tokens and 0 elsewhere."""
    tokens = np.zeros(len(sampled))
    if given is not None:
        tokens[sampled] = given
    return tokens


def _reward(trajectory: Trajectory) -> RewardBreakdown:
    if trajectory.reward is None:
        raise ValueError(
            f"trajectory of group {trajectory.group!r} seed {trajectory.seed}: reward is None "
            f"({trajectory.transcript.stop_reason}); reward it, or drop the group when it is void"
        )
    return trajectory.reward
