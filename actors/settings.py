"""Settings of the policy engine and of the episode."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Settings(BaseModel):
    """Base of every settings class: frozen, and unknown keys are refused.

    Error messages don't repeat a refused value, because it may hold a password.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SamplingSettings(Settings):
    """How the policy samples its tokens."""

    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 is greedy (evaluation only).")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass; must be 1 in training.")
    top_k: int = Field(0, ge=0, description="Sample from the k likeliest tokens, 0 for all; must be 0 in training.")


class EngineSettings(Settings):
    """One vLLM engine of a rollout worker."""

    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the engine runs.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Weights and activations.")
    max_model_len: int = Field(1024, gt=0, description="Longest episode in tokens, prompt and replies included.")
    max_num_seqs: int = Field(64, gt=0, description="Most sequences that one engine generates at a time.")
    tensor_parallel_size: int = Field(1, gt=0, description="GPUs of one engine.")
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1, description="Share of GPU memory for the engine.")
    kv_cache_gib: float = Field(1.0, gt=0, description="Memory for keys and values on CPU, in GiB.")
    threads: int = Field(1, gt=0, description="OpenMP threads of a CPU engine.")
    enforce_eager: bool = Field(True, description="Run without graph capture; required on CPU.")
    recompute_kv: bool = Field(
        True,
        description="When new weights arrive, recompute the keys and values of unfinished sequences: exact, but "
        "expensive for long ones. If false, they continue with the keys and values of the old weights.",
    )
    start_timeout_s: float = Field(300, gt=0, description="Deadline for the engine to start, in seconds.")
    turn_timeout_s: float = Field(
        1800, gt=0, description="Deadline for sampling one turn, in seconds, pauses of the engine included."
    )
    control_timeout_s: float = Field(
        120, gt=0, description="Deadline for the engine to pause, to switch to new weights, or to resume, in seconds."
    )

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

    prompt: Template = Field(
        "instruct",
        description="Prompt template: `instruct` explains the protocol; `compact` only lists the cards; `paper_qwen` "
        "and `paper_llama` have the slots and rules of the two templates that Router-R1 publishes.",
    )
    max_rounds: int = Field(
        4,
        ge=1,
        le=15,
        description="Routing rounds; after them the policy is told to answer in one last turn. Each turn samples with "
        "seed * 16 + turn.",
    )
    max_turn_tokens: int = Field(256, gt=0, description="Most tokens sampled in one turn.")
    max_reply_tokens: int = Field(256, gt=0, description="Most policy tokens of a reply; longer replies are cut.")
    shuffle_cards: bool = Field(True, description="List the candidates in a random order, drawn per group.")
    rename_cards: bool = Field(
        False,
        description="Show the candidates under invented names, drawn per group, so that the policy must read cards.",
    )
    budgets_usd: tuple[float, ...] = Field(
        (),
        description="Budgets of an episode in USD: each group draws one, and its prompt states it. Empty: no budget.",
    )
    eval_budget_usd: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Budget in USD for evaluation, `ask` and `serve`; if unset, they also draw one of budgets_usd.",
    )
    invalid_route: Literal["explain", "silent"] = Field(
        "explain",
        description="Reply to a search that names no candidate: `explain` lists the names, `silent` is empty.",
    )
    on_failed_call: Literal["void", "retry", "charge"] = Field(
        "void",
        description="After a call that timed out or failed at the provider: `void` voids the episode; `retry` repeats "
        "the call, up to timeout_retries and provider_error_retries times, before it voids the episode; `charge` "
        "charges the call's reserved price and continues the episode.",
    )
    timeout_retries: int = Field(
        1,
        ge=0,
        description="Retries of a call after timeouts if on_failed_call=retry, beyond the caller's own retries.",
    )
    provider_error_retries: int = Field(
        5,
        ge=0,
        description="Retries of a call after provider errors if on_failed_call=retry, beyond the caller's own retries. "
        "With the default pauses, five retries outlast an outage of half a minute.",
    )
    retry_pause_s: float = Field(
        2.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds before the first retry of a call; doubles with each retry up to 16 s, with jitter.",
    )
    parallel_searches: int = Field(
        1,
        ge=1,
        le=8,
        description="Most searches that one turn sends together. 1: the turn ends with its search. More: it ends where "
        "the policy writes <information>.",
    )

    @field_validator("budgets_usd")
    @classmethod
    def _positive(cls, budgets: tuple[float, ...]) -> tuple[float, ...]:
        wrong = [budget for budget in budgets if not (math.isfinite(budget) and budget > 0)]
        if wrong:
            raise ValueError(f"budgets_usd holds {wrong}; every budget must be a positive number of US dollars")
        return budgets

    @model_validator(mode="after")
    def _searches_explained(self) -> EpisodeSettings:
        if self.parallel_searches > 1 and self.prompt == "compact":
            raise ValueError(
                f"parallel_searches={self.parallel_searches} with prompt=compact, which does not say how several "
                "searches end; set another prompt or parallel_searches=1"
            )
        return self

    def without_retries(self) -> EpisodeSettings:
        """The same settings, except that failed calls are not retried."""
        return self.model_copy(update={"on_failed_call": "void"}) if self.on_failed_call == "retry" else self


Template = Literal["instruct", "compact", "paper_qwen", "paper_llama"]
