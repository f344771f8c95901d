"""Generalised advantage estimation: advantages per token, with a critic.

GAE, Schulman et al. 2016 (arXiv 1506.02438, section 3, equations 11, 12 and 16), over the sampled tokens only:

    delta_k = r_k + gamma * V_(k+1) - V_k
    A_k     = delta_k + gamma * lambda * A_(k+1)

where k counts a trajectory's sampled tokens. Tokens of the prompt and of replies are no decisions of the policy, so
they are skipped: the token before a reply is followed by the first sampled token after the reply, discounted by one
gamma. The state after the last sampled token is the end, with value 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learner.losses.advantages import Floats

WHITEN_EPS = 1e-8
"""Added to the variance in whitening, as TRL does."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TokenAdvantages:
    """For each trajectory an array `[T]` with one entry per token; 0 where the policy did not sample."""

    advantages: list[Floats]
    returns: list[Floats]  # advantage + value: the critic's targets


def gae(
    rewards: Sequence[float] | Floats,
    values: Sequence[npt.NDArray[np.floating]],
    sampled: Sequence[Bools],
    *,
    gamma: float,
    lam: float,
    token_rewards: Sequence[npt.NDArray[np.floating]] | None = None,
) -> TokenAdvantages:
    """Advantages and returns of `n` trajectories; each has its own number of tokens `T`.

    `values` and `token_rewards` are read only at sampled tokens.

    Args:
        rewards: `[n]`, paid at each trajectory's last sampled token.
        values: `n` arrays `[T]`: the critic's value given the tokens before token t.
        sampled: `n` arrays `[T]`: whether the policy sampled token t.
        gamma: discount per sampled token, in [0, 1].
        lam: lambda in [0, 1]; 0 trusts the critic, 1 the rewards.
        token_rewards: `n` arrays `[T]`, paid at each sampled token in addition to `rewards`, such as a penalty for
            the KL to the reference policy.

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
    # Beyond the end of a row, r and v are 0, so delta and the advantage are 0 too: rows need no mask.
    following = np.concatenate([v[:, 1:], np.zeros((len(v), 1))], axis=1)
    delta = r + gamma * following - v
    advantages = np.zeros_like(v)
    ahead = np.zeros(len(v))
    for k in range(v.shape[1] - 1, -1, -1):
        ahead = delta[:, k] + gamma * lam * ahead
        advantages[:, k] = ahead
    return TokenAdvantages(_back_to_tokens(advantages, sampled), _back_to_tokens(advantages + v, sampled))


def whiten(advantages: Sequence[Floats], sampled: Sequence[Bools]) -> list[Floats]:
    """Shift and scale advantages to mean 0 and variance 1 over all sampled tokens of the batch.

    Returns arrays `[T]`, 0 where not sampled. The variance is the sample variance (over n - 1), as in TRL. A single
    sampled token gets 0.

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
    """One row per trajectory with its sampled entries, then zeros: `[n, largest number of sampled tokens + 1]`."""
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
