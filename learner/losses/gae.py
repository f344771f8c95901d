"""Generalised advantage estimation: per-token advantages with a critic's help.

GAE, Schulman et al. 2016 (arXiv 1506.02438, section 3, equations 11, 12 and 16), over the tokens that the policy
sampled and no others:

    delta_k = r_k + gamma * V_(k+1) - V_k
    A_k     = delta_k + gamma * lambda * A_(k+1)

where k counts a trajectory's sampled tokens. What a reply or the prompt put between two of them is no decision of
the policy's: the step from the last token before a reply leads to the first one after it, and costs one gamma. The
state after the last sampled token is the end, worth 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learner.losses.advantages import Floats

WHITEN_EPS = 1e-8
"""Added to the variance when whitening, as TRL does."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TokenAdvantages:
    """Per trajectory an array `[T]`, with one entry per token; 0 where the policy did not sample."""

    advantages: list[Floats]
    returns: list[Floats]  # advantage + value: what the critic is fitted to


def gae(
    rewards: Sequence[float] | Floats,
    values: Sequence[npt.NDArray[np.floating]],
    sampled: Sequence[Bools],
    *,
    gamma: float,
    lam: float,
    token_rewards: Sequence[npt.NDArray[np.floating]] | None = None,
) -> TokenAdvantages:
    """Advantages and returns of `n` trajectories of `T` tokens each, `T` different for each.

    Args:
        rewards: `[n]`, paid at each trajectory's last sampled token.
        values: `n` arrays `[T]`: the critic's value of the state in which token t was sampled, that is, given the
            tokens before it. Not read where not sampled.
        sampled: `n` arrays `[T]`: whether the policy sampled token t.
        gamma: discount per sampled token, in [0, 1].
        lam: lambda in [0, 1]; 0 trusts the critic, 1 the rewards.
        token_rewards: `n` arrays `[T]` paid at sampled tokens beside `rewards`, such as a penalty for the KL to
            the reference policy. Not read where not sampled.

    Raises:
        ValueError: lengths differ, gamma or lam lies outside [0, 1], or a number that is read is not finite.
    """
    for name, setting in (("gamma", gamma), ("lam", lam)):
        if not 0 <= setting <= 1:
            raise ValueError(f"{name}={setting} must lie in [0, 1]")
    terminal = np.asarray(rewards, dtype=np.float64)
    v = _rows_of_sampled("values", values, sampled)
    r = np.zeros_like(v) if token_rewards is None else _rows_of_sampled("token_rewards", token_rewards, sampled)
    if len(terminal) != len(sampled) or not np.isfinite(terminal).all():
        raise ValueError(f"rewards must be {len(sampled)} finite numbers, one per trajectory, got {terminal}")
    last = np.array([mask.sum() for mask in sampled], dtype=np.intp) - 1
    acts = np.flatnonzero(last >= 0)
    r[acts, last[acts]] += terminal[acts]
    # Past a row's end r and v are 0, and so then are delta and the advantage: rows need no mask.
    following = np.concatenate([v[:, 1:], np.zeros((len(v), 1))], axis=1)
    delta = r + gamma * following - v
    advantages = np.zeros_like(v)
    ahead = np.zeros(len(v))
    for k in range(v.shape[1] - 1, -1, -1):
        ahead = delta[:, k] + gamma * lam * ahead
        advantages[:, k] = ahead
    return TokenAdvantages(_back_to_tokens(advantages, sampled), _back_to_tokens(advantages + v, sampled))


def whiten(advantages: Sequence[Floats], sampled: Sequence[Bools]) -> list[Floats]:
    """The advantages with mean 0 and variance 1 over all sampled tokens of the batch, as arrays `[T]`; 0 elsewhere.

    The variance is the sample's (over n - 1), as TRL has it. One sampled token alone becomes 0.

    Raises:
        ValueError: lengths differ, or a number that is read is not finite.
    """
    rows = _rows_of_sampled("advantages", advantages, sampled)
    real = np.arange(rows.shape[1]) < np.array([mask.sum() for mask in sampled])[:, None]
    count = int(real.sum())
    centred = np.where(real, rows - rows.sum() / max(count, 1), 0.0)
    variance = (centred**2).sum() / max(count - 1, 1)
    return _back_to_tokens(centred / np.sqrt(variance + WHITEN_EPS), sampled)


def _rows_of_sampled(name: str, arrays: Sequence[npt.NDArray[np.floating]], sampled: Sequence[Bools]) -> Floats:
    """Each trajectory's sampled entries in a row, `[n, most sampled tokens + 1]`; 0 after its last."""
    if len(arrays) != len(sampled):
        raise ValueError(f"{name} must have one array per trajectory, got {len(arrays)} for {len(sampled)}")
    rows = np.zeros((len(sampled), max((int(mask.sum()) for mask in sampled), default=0) + 1))
    for place, (array, mask) in enumerate(zip(arrays, sampled, strict=True)):
        if array.shape != mask.shape:
            raise ValueError(f"{name}[{place}] must have one entry per token, got {array.shape} for {mask.shape}")
        read = array[mask]
        if not np.isfinite(read).all():
            at = int(np.flatnonzero(mask)[~np.isfinite(read)][0])
            raise ValueError(f"{name}[{place}][{at}]={array[at]} is not finite; look for a diverged critic")
        rows[place, : len(read)] = read
    return rows


def _back_to_tokens(rows: Floats, sampled: Sequence[Bools]) -> list[Floats]:
    """The inverse of `_rows_of_sampled`: arrays `[T]`, 0 where not sampled."""
    spread = []
    for row, mask in zip(rows, sampled, strict=True):
        tokens = np.zeros(len(mask))
        tokens[mask] = row[: int(mask.sum())]
        spread.append(tokens)
    return spread
