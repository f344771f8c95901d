"""The policy engine's result for one request: the sampled tokens, their log-probabilities and their versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Generation:
    """Tokens sampled for one prompt. The three lists have one entry per sampled token."""

    token_ids: list[int]  # exactly as sampled; a stop string may end inside the last token
    logprobs: list[float]  # nats, under the distribution that the token was sampled from
    versions: list[int]  # the policy version that sampled the token
    text: str  # decoded; ends with the stop string if one was met
    finish_reason: Literal["stop", "length"]  # `stop`: a stop string or the end-of-text token
