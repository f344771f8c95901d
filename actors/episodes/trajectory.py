"""The trajectory: the append-only token buffer of an episode, and the finished episode with its transcript."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from actors.questions import Question
from rewards.presets import RewardBreakdown
from rewards.transcript import Transcript

NOT_SAMPLED = -1  # the version of a token that no policy sampled


@dataclass(slots=True)
class TokenBuffer:
    """Tokens of a running episode. They are only appended, so every prompt extends the one before.

    The four lists have one entry per token: its id, whether the policy sampled it, its log-probability
    (nats) under the distribution it was sampled from, and the policy version that sampled it.
    """

    token_ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def extend_context(self, token_ids: list[int]) -> None:
        """Append tokens that the policy reads: the prompt, or a reply."""
        self.token_ids += token_ids
        self.sampled += [False] * len(token_ids)
        self.logprobs += [0.0] * len(token_ids)
        self.versions += [NOT_SAMPLED] * len(token_ids)

    def extend_sampled(self, token_ids: list[int], logprobs: list[float], versions: list[int]) -> None:
        """Append tokens that the policy sampled.

        Raises:
            ValueError: the three lists differ in length.
        """
        if not len(token_ids) == len(logprobs) == len(versions):
            raise ValueError(
                f"every sampled token needs a log-probability and a version; got {len(token_ids)} tokens, "
                f"{len(logprobs)} log-probabilities, {len(versions)} versions"
            )
        self.token_ids += token_ids
        self.sampled += [True] * len(token_ids)
        self.logprobs += logprobs
        self.versions += versions

    def first(self, count: int) -> TokenBuffer:
        """A copy of the first `count` tokens."""
        return TokenBuffer(self.token_ids[:count], self.sampled[:count], self.logprobs[:count], self.versions[:count])

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A finished episode. Arrays have one entry per token, `[T]`."""

    question: Question
    group: str  # the trajectory group: episodes of one question under one prompt
    seed: int
    token_ids: npt.NDArray[np.int64]
    sampled: npt.NDArray[np.bool_]
    logprobs: npt.NDArray[np.float32]  # nats; 0 where not sampled
    versions: npt.NDArray[np.int64]  # NOT_SAMPLED where not sampled
    transcript: Transcript
    prompt: str  # the rendered prompt, for people; never tokenised again
    wall_s: float
    budget_usd: float | None = None  # the budget that the prompt stated; None if it stated none
    reward: RewardBreakdown | None = None

    def copied(self) -> Trajectory:
        """A copy whose arrays share no memory with any other object."""
        return replace(
            self,
            token_ids=self.token_ids.copy(),
            sampled=self.sampled.copy(),
            logprobs=self.logprobs.copy(),
            versions=self.versions.copy(),
        )

    @staticmethod
    def freeze(
        buffer: TokenBuffer,
        *,
        question: Question,
        group: str,
        seed: int,
        transcript: Transcript,
        prompt: str,
        wall_s: float,
        budget_usd: float | None = None,
    ) -> Trajectory:
        return Trajectory(
            question=question,
            group=group,
            seed=seed,
            token_ids=np.asarray(buffer.token_ids, dtype=np.int64),
            sampled=np.asarray(buffer.sampled, dtype=np.bool_),
            logprobs=np.asarray(buffer.logprobs, dtype=np.float32),
            versions=np.asarray(buffer.versions, dtype=np.int64),
            transcript=transcript,
            prompt=prompt,
            wall_s=wall_s,
            budget_usd=budget_usd,
        )

    @property
    def oldest_version(self) -> int:
        """The oldest policy version that sampled a token; NOT_SAMPLED if none did."""
        return int(self.versions[self.sampled].min()) if self.sampled.any() else NOT_SAMPLED
