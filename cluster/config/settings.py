"""Settings of a run: every section and field with its type, and checks for values that can't go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from actors.pool.settings import PoolSettings
from actors.settings import EngineSettings, EpisodeSettings, SamplingSettings, Settings
from benchmarks.world.faults import FaultSettings
from learner.settings import LearnerSettings
from learner.sft_settings import SftSettings
from rewards.settings import RewardSettings


class RunSettings(Settings):
    """The run as a whole."""

    name: str | None = Field(None, description="Folder of the run under `folder`; default: recipe and time.")
    folder: Path = Field(Path("runs"), description="Folder that holds all runs.")
    seed: int = Field(0, ge=0, description="Seeds questions, menus, sampling and the learner.")
    steps: int = Field(100, ge=0, description="Batches to train on.")
    groups_per_step: int = Field(16, gt=0, description="Questions of a batch.")
    group_size: int = Field(8, gt=0, description="Episodes of a question: the group that shares a baseline.")
    max_staleness: int = Field(
        0,
        ge=0,
        description="Policy versions that a trajectory may lag: the number of batches that are played ahead of the "
        "learner. 0: the engines wait while the policy learns.",
    )
    if_exists: Literal["refuse", "resume"] = Field(
        "refuse", description="If the run's folder exists: refuse, or resume from its newest checkpoint."
    )
    eval_every: int = Field(0, ge=0, description="Steps between evaluations; 0: only before and after training.")
    checkpoint_every: int = Field(
        10, ge=0, description="Steps between checkpoints, which a run resumes from after a crash; 0: only at the end."
    )
    keep_checkpoints: int = Field(
        3, gt=0, description="How many of the newest checkpoints are kept; so is the one with the best evaluation."
    )
    group_retries: int = Field(
        2, ge=0, description="How often a question is asked again if its group was lost to failed calls."
    )
    max_refills: int = Field(
        3, ge=0, description="How often further questions are drawn for a batch, to replace groups without signal."
    )
    retry_pause_s: float = Field(
        10,
        ge=0,
        description="Seconds before questions are asked again when failed calls have voided a whole batch.",
    )
    mirror: str | None = Field(
        None,
        description="URL (s3://…, gs://…, file:///…) that the newest checkpoints are copied to; if a run's folder is "
        "lost, the run resumes from there.",
    )
    trace: bool = Field(
        False,
        description="Write a trace of episodes, calls, pauses and steps into the run folder, for ui.perfetto.dev.",
    )
    sample_trajectories: int = Field(4, ge=0, description="Trajectories of each step to write out for people.")
    rollout_timeout_s: float = Field(3600, gt=0, description="Seconds for playing the episodes of one batch.")
    stall_s: float = Field(
        900, gt=0, description="Seconds of a phase after which a warning names it and stacks of processes are saved."
    )
    probe_tolerance: float = Field(
        1e-3, gt=0, description="Nats by which engine and learner may differ on the probe after a sync."
    )

    @field_validator("mirror")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        # A user name alone is no password, and Azure's container@account has not even a user.
        if value is not None and ":" in value.partition("://")[2].partition("/")[0].rpartition("@")[0]:
            raise ValueError(
                "must hold no password, because it would be saved with the run; give it where the store's "
                "own tools look for it, such as AWS_SECRET_ACCESS_KEY or ~/.netrc"
            )
        return value


class DataSettings(Settings):
    """The questions. A source is `world:train`, `world:heldout`, a QA set by name (`nq`, `hotpotqa/train`), or a file:
    JSON lines, CSV, TSV or Parquet, its columns named after it (`FILE:id=#:question=COLUMN:answers=COLUMN`)."""

    train: tuple[str, ...] = Field(
        ("world:train",), min_length=1, description="Sources to train on, mixed and shuffled."
    )
    eval: tuple[str, ...] = Field(("world:heldout",), description="Sources to evaluate on.")
    train_limit: int | None = Field(None, gt=0, description="Questions taken from each training source.")
    eval_questions: int = Field(200, ge=0, description="Questions of an evaluation, in all.")
    two_hop_share: float = Field(0.4, ge=0, le=1, description="Share of two-hop questions in the world's sources.")

    @field_validator("train", "eval", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class PolicySettings(Settings):
    """The policy to start from."""

    checkpoint: str = Field(
        "world",
        description="Folder in Hugging Face form, hub id, `world` (the embedded small policy) or `smollm2`.",
    )
    sampling: SamplingSettings = Field(SamplingSettings(), description="How episodes are sampled in training.")
    eval_temperature: float = Field(0.0, ge=0, description="Temperature of evaluation; 0 is greedy.")

    @model_validator(mode="after")
    def _unbiased(self) -> PolicySettings:
        sampling = self.sampling
        if sampling.top_p < 1 or sampling.top_k > 0 or sampling.temperature == 0:
            raise ValueError(
                f"sampling top_p={sampling.top_p}, top_k={sampling.top_k}, temperature={sampling.temperature} would "
                "bias the recorded log-probabilities; in training set top_p=1, top_k=0 and a temperature above 0"
            )
        return self


class CandidateSettings(Settings):
    """The candidate LLMs, and the embedded server that may stand for them."""

    serve: Literal["world", "recorded", "none"] = Field(
        "world",
        description="Start a local server of the world's experts, of recorded replies, or none (cards only).",
    )
    replies: Path | None = Field(None, description="JSONL of recorded replies, for serve=recorded.")
    latency_scale: float = Field(0.0, ge=0, description="Factor on the local server's latencies; 0: no latency.")
    latency_lognormal: tuple[float, float] | None = Field(
        None,
        description="Median and 99th percentile, in seconds, of a lognormal distribution from which the local server "
        "draws latencies in place of its models' own; latency_scale multiplies them.",
    )
    faults: FaultSettings = Field(FaultSettings(), description="Faults that the local server simulates.")
    pool: PoolSettings = Field(PoolSettings(), description="Cards and callers.")
    unseen_cards: Path | None = Field(
        None,
        description="Further cards, given like pool.cards, for serve=none. Training never shows them; one more "
        "evaluation at the end shows them with the others.",
    )

    @field_validator("latency_lognormal")
    @classmethod
    def _rising(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] <= value[1]:
            raise ValueError(
                f"needs a median above 0 and a 99th percentile no less, such as [0.8,8]; got {list(value)}"
            )
        return value

    @model_validator(mode="after")
    def _possible(self) -> CandidateSettings:
        if self.serve == "recorded" and self.replies is None:
            raise ValueError("serve=recorded with replies unset has nothing to say; set candidates.replies=FILE")
        ignored = {
            "pool.cards": self.pool.cards,
            "pool.base_url": self.pool.base_url,
            "unseen_cards": self.unseen_cards,
        }
        if self.serve != "none" and any(value is not None for value in ignored.values()):
            given = ", ".join(f"{name}={value}" for name, value in ignored.items() if value is not None)
            raise ValueError(
                f"{given} with serve={self.serve} would be ignored: the local server brings cards of its own; set "
                "candidates.serve=none"
            )
        if self.serve == "none" and self.pool.cards is None:
            raise ValueError("serve=none with pool.cards unset leaves no candidates; set candidates.pool.cards=FILE")
        return self


class PlacementSettings(Settings):
    """What runs where."""

    address: str | None = Field(None, description="Ray cluster to join; if not set, Ray starts on this machine.")
    rollout_workers: int = Field(1, gt=0, description="vLLM engines.")
    min_rollout_workers: int | None = Field(
        None,
        gt=0,
        description="Engines with reserved places, which the start waits for; the others join when the cluster has "
        "room for them, and may leave with their nodes. Default: all.",
    )
    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = Field(
        "PACK", description="Ray placement strategy of the run's bundles."
    )
    timeout_s: float = Field(
        600, gt=0, description="Seconds for the cluster to grant the placement; on one machine, at most a minute."
    )
    max_worker_restarts: int = Field(
        8, ge=0, description="Most replacements, in a whole run, of rollout workers that died or hang."
    )

    @property
    def reserved_workers(self) -> int:
        """Engines whose places are reserved."""
        return self.rollout_workers if self.min_rollout_workers is None else self.min_rollout_workers

    @model_validator(mode="after")
    def _no_more_than_all(self) -> PlacementSettings:
        if self.reserved_workers > self.rollout_workers:
            raise ValueError(
                f"min_rollout_workers={self.min_rollout_workers} is more than rollout_workers={self.rollout_workers}; "
                "lower it, or raise rollout_workers"
            )
        return self


class TrackingSettings(Settings):
    """Weights & Biases. The key comes from WANDB_API_KEY; without it runs are tracked offline."""

    wandb: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="`auto`: online where WANDB_API_KEY is set, else offline."
    )
    project: str = Field("router-r1", description="W&B project.")
    entity: str | None = Field(None, description="W&B team or user.")


class Config(Settings):
    """A run. Every section and field may be set in a recipe or as `section.field=value`."""

    about: str = Field("", description="One line on what the recipe is for.")
    run: RunSettings = Field(RunSettings(), description="Length, batch and evaluation.")
    policy: PolicySettings = Field(PolicySettings(), description="The policy.")
    engine: EngineSettings = Field(EngineSettings(), description="The vLLM engines.")
    episode: EpisodeSettings = Field(EpisodeSettings(), description="Rules of an episode.")
    candidates: CandidateSettings = Field(CandidateSettings(), description="The candidate LLMs.")
    data: DataSettings = Field(DataSettings(), description="The questions.")
    rewards: RewardSettings = Field(RewardSettings(), description="The reward.")
    learner: LearnerSettings = Field(LearnerSettings(), description="The learner.")
    sft: SftSettings = Field(SftSettings(), description="Supervised fine-tuning, for `router-r1 sft`.")
    placement: PlacementSettings = Field(PlacementSettings(), description="What runs where.")
    tracking: TrackingSettings = Field(TrackingSettings(), description="Tracking.")

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if self.run.group_size == 1 and self.run.steps > 0 and self.learner.needs_groups:
            raise ValueError(
                f"run.group_size=1 gives learner.estimator={self.learner.estimator} no baseline, every advantage would "
                "be 0; set it to 2 or more, or estimator=gae or reinforce_pp"
            )
        world = any(source.startswith("world:") for source in (*self.data.train, *self.data.eval))
        if world and self.candidates.serve != "world":
            raise ValueError(
                f"data.train={self.data.train}, data.eval={self.data.eval} with candidates.serve="
                f"{self.candidates.serve}: only the world's experts can answer the world's questions; "
                "set candidates.serve=world or other sources"
            )
        if self.engine.device != self.learner.device:
            raise ValueError(
                f"engine.device={self.engine.device} with learner.device={self.learner.device}: weights are "
                "synced by gloo between CPUs or NCCL between GPUs; set both alike"
            )
        return self

    @property
    def weight_backend(self) -> Literal["gloo", "nccl"]:
        return "gloo" if self.learner.device == "cpu" else "nccl"

    @property
    def requests_per_route(self) -> tuple[int, int, int]:
        """The greatest numbers of requests in a call, of calls in an episode and of plays of a group, for one route.

        The caller repeats requests that fail, an episode repeats a call that failed for good, and a group that failed
        calls voided is played again. So the product is the greatest number of requests that a route can cause.
        """
        pool, episode = self.candidates.pool, self.episode
        again = episode.timeout_retries + episode.provider_error_retries if episode.on_failed_call == "retry" else 0
        hedges = 0 if pool.hedge_quantile is None else 1  # beside the last request, too
        return pool.max_attempts + hedges, 1 + again, 1 + self.run.group_retries

    def dump(self) -> dict[str, Any]:
        """The resolved configuration as plain data; it holds no secrets, only names of variables."""
        return self.model_dump(mode="json")
