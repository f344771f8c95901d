"""Settings of the candidate pool: its cards, and how they are called."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from actors.pool.cards import check_base_url
from actors.settings import Settings


class PoolSettings(Settings):
    """The candidate LLMs and how they are called."""

    cards: Path | None = Field(
        None, description="YAML file of model cards, or the name of a pool that ships, such as router_r1_six."
    )
    base_url: str | None = Field(
        None, description="Overrides the base URL of every card, for a local server; no API key is sent to it."
    )

    @field_validator("base_url")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        return None if value is None else check_base_url(value)

    callers: int = Field(1, ge=1, description="Caller actors; every endpoint belongs to exactly one.")
    max_in_flight: int = Field(256, gt=0, description="Calls under way per caller.")
    queue_timeout_s: float = Field(
        600, gt=0, description="Deadline for one of max_in_flight slots to be free; then the call is a timeout."
    )
    connect_timeout_s: float = Field(5, gt=0, description="Deadline to connect.")
    total_timeout_s: float = Field(60, gt=0, description="Deadline for a call: attempts and the pauses between.")
    max_attempts: int = Field(
        4, ge=1, description="Attempts per call; only 429, 5xx and broken connections are retried."
    )
    backoff_s: float = Field(0.25, gt=0, description="First pause between attempts; doubles, with jitter.")
    max_reply_bytes: int = Field(1 << 20, gt=0, description="A longer HTTP body is a provider error.")
    send_question_id: bool = Field(
        False, description="Send the question's id as metadata: for recorded replies. Providers may refuse it."
    )
