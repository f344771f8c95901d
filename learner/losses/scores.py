"""Scores: a rank's log-probabilities, KL penalties and values of a sample, before the batch is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class SampleScores:
    """Scores of one trajectory's sampled tokens; arrays are `[n]`."""

    logprobs: npt.NDArray[np.float32]  # the learner's, nats
    kl_penalties: npt.NDArray[np.float32]  # weighted KL to the reference policy; 0 unless kl_in=reward
    values: npt.NDArray[np.float32] | None = None  # the critic's, given the tokens before; None without a critic
    ref_logprobs: npt.NDArray[np.float32] | None = None  # the reference policy's, nats; None without one

    @property
    def kl_penalty(self) -> float:
        """The weighted KL of the whole trajectory."""
        return float(self.kl_penalties.sum())

    @property
    def not_finite(self) -> str | None:
        """The name of the first score that is NaN or infinite, for messages; None if all are finite."""
        named = {
            "the learner's log-probability": self.logprobs,
            "the reference policy's log-probability": self.ref_logprobs,
            "the KL penalty": self.kl_penalties,
            "the critic's value": self.values,
        }
        return next((name for name, array in named.items() if array is not None and not np.isfinite(array).all()), None)
