"""Credit: the advantages of a batch of trajectories, by the recipe's estimator."""

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
    """Credit that a critic helped to give: per trajectory an array `[T]`, 0 where the policy did not sample."""

    advantages: list[Floats]  # mean 0 and variance 1 over the sampled tokens of the batch
    returns: list[Floats]  # what the critic is fitted to
    explained_variance: float  # 1 - Var(return - value) / Var(return) over sampled tokens; 0 where no return varies
    share_without_signal: float  # groups of one, or whose rewards are all equal


def credited_samples(
    trajectories: Sequence[Trajectory], settings: LearnerSettings, scores: Mapping[int, SampleScores]
) -> tuple[list[Sample], dict[str, float]]:
    """What is to be trained on, with its credit, and the metrics of that credit.

    Args:
        scores: by place in `trajectories`; empty where `settings.scores_first` is false.

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
    """Advantages of whole groups, in the order of `trajectories`; by every estimator but gae.

    `penalties`, one per trajectory, are taken off the total rewards: with `kl_in=reward` the weighted KL to the
    reference policy, summed over the trajectory's sampled tokens (Ziegler et al. 2019, arXiv 1909.08593, equation 2).
    Where it is compared in groups, a group whose rewards alone are all equal has no signal.

    Raises:
        ValueError: there are no trajectories, one has no reward or one that is not finite, they don't all have the
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
    """Of judged trajectories those whose group teaches something, in their order, and how many groups do not.

    A group teaches where its members' total rewards differ or, with `advantages_by=components`, those of a component
    that weighs anything. The share of groups kept is what the metric `KEEP_RATE` means.

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
    """Each named part of the rewards, in the order of `trajectories`."""
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
        scores: by place in `trajectories`, with the critic's values; those that sampled nothing have none.

    Raises:
        ValueError: a trajectory has no reward, or one that is not finite, or a value is not finite.
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
    """1 - Var(return - value) / Var(return): 1 where the critic knows all, 0 where it knows nothing, or less."""
    spread = float(np.var(returns))
    return 1.0 - float(np.var(returns - values)) / spread if spread > 0 else 0.0


def _on_tokens(sampled: npt.NDArray[np.bool_], given: npt.NDArray[np.float32] | None) -> Floats:
    """`given` `[n]` at the sampled ones of `[T]` tokens."""
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
