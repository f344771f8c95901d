"""Faults that a candidate server produces on purpose, at given rates."""

from __future__ import annotations

import random

from pydantic import Field, model_validator

from actors.settings import Settings

# Names of the fields of `FaultSettings` that are rates, in the order of drawing.
FAULTS = (
    "rate_limit",
    "server_error",
    "hang",
    "html",
    "invalid_json",
    "cut_off",
    "empty_choices",
    "null_content",
    "refusal",
    "no_usage",
    "wrong_usage",
)
BEFORE_ANSWER = frozenset(FAULTS[:5])  # instead of an answer, and not billed; the other faults spoil a billed answer


class FaultSettings(Settings):
    """Rates of faults, in [0, 1]. A request has one fault at most, so the rates must not sum to more than 1."""

    rate_limit: float = Field(0.0, ge=0, le=1, description="HTTP 429 with Retry-After.")
    server_error: float = Field(0.0, ge=0, le=1, description="HTTP 500.")
    hang: float = Field(0.0, ge=0, le=1, description="No reply until the client disconnects.")
    html: float = Field(0.0, ge=0, le=1, description="A web page with status 200.")
    invalid_json: float = Field(0.0, ge=0, le=1, description="A body that is not valid JSON.")
    cut_off: float = Field(0.0, ge=0, le=1, description="The connection breaks in the middle of the body.")
    empty_choices: float = Field(0.0, ge=0, le=1, description="A reply without choices.")
    null_content: float = Field(0.0, ge=0, le=1, description="A message whose content is null.")
    refusal: float = Field(0.0, ge=0, le=1, description="A reply stopped by a content filter.")
    no_usage: float = Field(0.0, ge=0, le=1, description="A good reply without usage.")
    wrong_usage: float = Field(0.0, ge=0, le=1, description="A good reply with negative token counts in its usage.")
    retry_after_s: float = Field(1.0, ge=0, description="Retry-After of a 429, in seconds.")
    seed: int = Field(0, description="Seed of the draws; the n-th request gets the n-th draw.")

    @model_validator(mode="after")
    def _at_most_one(self) -> FaultSettings:
        total = sum(getattr(self, name) for name in FAULTS)
        if total > 1 + 1e-9:
            raise ValueError(f"the fault rates sum to {total:g}; lower them to 1 or less")
        return self

    def draw(self, random_: random.Random) -> str:
        """Draw the fault of the next request; empty for none."""
        left = random_.random()
        for name in FAULTS:
            left -= getattr(self, name)
            if left < 0:
                return name
        return ""
