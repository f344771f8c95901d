"""Settings of what makes trajectories: the policy engine and the episode."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


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
