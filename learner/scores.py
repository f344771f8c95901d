"""Scores: what a rank makes of a sample before the batch is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class SampleScores:
    """Of one trajectory's sampled tokens; arrays are `[n]`."""

    logprobs: npt.NDArray[np.float32]  # the learner's, nats
    kl_penalties: npt.NDArray[np.float32]  # weighted KL to the reference policy; 0 without a reference
    values: npt.NDArray[np.float32] | None = None  # the critic's, given the tokens before each; None without a critic

    @property
    def kl_penalty(self) -> float:
        """The weighted KL of the whole trajectory."""
        return float(self.kl_penalties.sum())
