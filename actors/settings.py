"""Settings of what makes trajectories: the policy engine, the episode and the candidate pool."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from actors.pool.cards import check_base_url


class Settings(BaseModel):
    """Base of every settings class: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SamplingSettings(Settings):
    """How the policy samples its tokens."""

    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 is greedy (evaluation only).")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass; must be 1 in training.")
    top_k: int = Field(0, ge=0, description="Tokens to sample from, 0 for all; must be 0 in training.")


class EngineSettings(Settings):
    """One vLLM engine of a rollout worker."""

    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the engine runs.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Weights and activations.")
    max_model_len: int = Field(1024, gt=0, description="Longest episode in tokens, prompt and replies included.")
    max_num_seqs: int = Field(64, gt=0, description="Sequences that one engine generates at a time.")
    tensor_parallel_size: int = Field(1, gt=0, description="GPUs of one engine.")
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1, description="Share of GPU memory for the engine.")
    kv_cache_gib: float = Field(1.0, gt=0, description="Memory for keys and values on CPU, in GiB.")
    threads: int = Field(1, gt=0, description="OpenMP threads of a CPU engine.")
    enforce_eager: bool = Field(True, description="Do without graph capture; required on CPU.")
    start_timeout_s: float = Field(300, gt=0, description="Deadline for the engine to be ready.")

    @model_validator(mode="after")
    def _cpu_limits(self) -> EngineSettings:
        if self.device == "cpu" and self.tensor_parallel_size != 1:
            raise ValueError(
                f"tensor_parallel_size={self.tensor_parallel_size} needs device=cuda; "
                "on cpu set tensor_parallel_size=1 and add rollout workers instead"
            )
        if self.device == "cpu" and not self.enforce_eager:
            raise ValueError("enforce_eager=false captures GPU graphs and needs device=cuda; on cpu leave it true")
        return self


class EpisodeSettings(Settings):
    """Rules of an episode."""

    prompt: Literal["instruct", "compact"] = Field(
        "instruct", description="Prompt template: `instruct` explains the protocol, `compact` only lists the cards."
    )
    max_rounds: int = Field(
        4,
        ge=1,
        le=15,
        description="Routing rounds; then one last turn, told to answer. Turns sample with seed * 16 + turn.",
    )
    max_turn_tokens: int = Field(256, gt=0, description="Tokens sampled in one turn, at most.")
    max_reply_tokens: int = Field(256, gt=0, description="Policy tokens a reply may take; longer ones are cut.")
    shuffle_cards: bool = Field(True, description="List the candidates in a random order, drawn per group.")
    rename_cards: bool = Field(
        False, description="Show the candidates under invented names, drawn per group: cards must be read."
    )


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
