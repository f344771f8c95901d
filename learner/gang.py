"""The learner gang: the driver's handle on all DeepSpeed ranks. Imports no torch."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.trajectory import Trajectory
from learner.batching import canonical_order, make_samples, plan_steps, split_over_ranks
from learner.credit import assign_credit
from learner.metrics import merge_reports
from learner.scores import SampleScores
from learner.settings import LearnerSettings

if TYPE_CHECKING:
    from learner.rank import LearnerRank

log = logging.getLogger(__name__)

GRACE_S = 5.0
"""How long the other ranks may take to report too, once one has failed: the first error may only say that a
neighbour went away."""


class LearnerError(RuntimeError):
    """A rank failed, died or overran its deadline; the gang can't be used any more."""


class RankProcess:
    """The Ray actor that holds one `LearnerRank`. It keeps torch and DeepSpeed out of the driver."""

    def __init__(self, settings: LearnerSettings) -> None:
        # Before torch is imported: Ray sets it to the actor's share of CPUs, which may be 0.
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
        self.settings = settings
        self.rank: LearnerRank | None = None

    def open_store(self) -> tuple[str, int]:
        """Open the rendezvous on a free port of this node; for rank 0. Returns host and port."""
        from torch.distributed import TCPStore

        host = ray.util.get_node_ip_address()
        # The store picks its own port, so that no other process can take it in between.
        self.store = TCPStore(host, 0, self.settings.ranks, is_master=True, wait_for_workers=False)
        return host, self.store.port

    def warm(self) -> None:
        """Import what `start` needs, while the other ranks do."""
        from learner.rank import import_deepspeed

        import_deepspeed(self.settings.device)

    def start(self, rank: int, address: tuple[str, int], arguments: dict[str, Any]) -> None:
        """Build the rank; returns when all ranks have."""
        from torch.distributed import TCPStore

        from learner.rank import LearnerRank

        store = self.store if rank == 0 else TCPStore(*address, self.settings.ranks, is_master=False)
        self.rank = LearnerRank(self.settings, rank=rank, store=store, **arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the rank."""
        return getattr(self.rank, method)(*arguments)


class LearnerGang:
    """All ranks, started and ready. Methods block, and raise `LearnerError` when a rank fails or is late."""

    def __init__(
        self,
        settings: LearnerSettings,
        *,
        checkpoint: Path,
        temperature: float,
        reference: Path | None = None,
        placement: PlacementGroup | None = None,
        bundles: Sequence[int] | None = None,
        cpus_per_rank: float | None = None,
    ) -> None:
        """Start the ranks and wait for them.

        Args:
            checkpoint: the policy, a directory in Hugging Face format that every node can read.
            temperature: the rollouts' sampling temperature.
            reference: the reference policy when `kl_coef` > 0; `checkpoint` if not given.
            placement: placement group to start in, and in `bundles` each rank's bundle (any if not given).
            cpus_per_rank: Ray CPUs that a rank reserves; its threads if not given.

        Raises:
            ValueError: `bundles` doesn't give one bundle per rank.
            LearnerError: a rank failed to start, or not within `start_timeout_s`.
        """
        began = time.monotonic()
        self.settings = settings
        if bundles is not None and len(bundles) != settings.ranks:
            raise ValueError(f"bundles={list(bundles)} must give one bundle per rank, ranks={settings.ranks}")
        actor_class = ray.remote(RankProcess)
        self._actors = []
        for rank in range(settings.ranks):
            strategy: Any = "DEFAULT"
            if placement is not None:
                strategy = PlacementGroupSchedulingStrategy(placement, bundles[rank] if bundles else -1)
            options = actor_class.options(
                num_cpus=settings.threads if cpus_per_rank is None else cpus_per_rank,
                num_gpus=1 if settings.device == "cuda" else 0,
                max_restarts=0,  # a lost rank has lost its optimizer state: the gang starts anew from a checkpoint
                scheduling_strategy=strategy,
            )
            self._actors.append(options.remote(settings))
        try:
            self._start({"checkpoint": checkpoint, "temperature": temperature, "reference": reference}, began)
        except BaseException:
            self.shutdown()
            raise

    def _start(self, arguments: dict[str, Any], began: float) -> None:
        deadline = began + self.settings.start_timeout_s
        opened = self._actors[0].open_store.remote()
        refs = [actor.warm.remote() for actor in self._actors]
        (address,) = self._gather([opened], deadline, "open_store")
        self._gather(refs, deadline, "import DeepSpeed")
        refs = [actor.start.remote(rank, address, arguments) for rank, actor in enumerate(self._actors)]
        self._gather(refs, deadline, "start")
        self._batches = 0
        self._logit_chunk = self.settings.logit_chunk(self.vocabulary_size())
        log.info("learner gang of %d ranks ready in %.1f s", self.settings.ranks, time.monotonic() - began)

    def train_step(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """Train on one batch of whole groups; returns the metrics of `LEARNER_METRICS`.

        Raises:
            ValueError: a trajectory has no reward, or nothing in the batch was sampled by the policy.
            LearnerError: a rank failed, e.g. on a loss that is not finite.
        """
        began = time.monotonic()
        scores = self._score(trajectories) if self.settings.scores_first else {}
        penalties = None
        if self.settings.kl_in == "reward":
            penalties = [scores[place].kl_penalty if place in scores else 0.0 for place in range(len(trajectories))]
        advantages = assign_credit(trajectories, self.settings, penalties)
        samples = make_samples(trajectories, advantages.values)
        if scores:
            order = canonical_order(trajectories)
            samples = [replace(s, old_logprobs=scores[order[s.index]].logprobs) for s in samples]
        shares = plan_steps(
            samples,
            ranks=self.settings.ranks,
            ppo_epochs=self.settings.ppo_epochs,
            minibatches=self.settings.minibatches,
            micro_batch_tokens=self.settings.micro_batch_tokens,
            logit_chunk_tokens=self._logit_chunk,
            seed=(self.settings.seed, self._batches),
        )
        reports = self.call_each("train_step", [(share,) for share in shares])
        self._batches += 1
        metrics = merge_reports(reports)
        seconds = time.monotonic() - began
        tokens = sum(len(s) for s in samples)
        return metrics | {
            "tokens_trained": float(sum(s.trained_tokens for s in samples)),
            "tokens_total": float(tokens),
            "tokens_per_s": tokens * self.settings.ppo_epochs / seconds,
            "groups_without_signal": advantages.share_without_signal,
            "step_seconds": seconds,
        }

    def _score(self, trajectories: Sequence[Trajectory]) -> dict[int, SampleScores]:
        """What the ranks make of a batch before they train on it, by place in `trajectories`."""
        order = canonical_order(trajectories)
        samples = make_samples(trajectories, np.zeros(len(trajectories)))
        settings = self.settings
        shares = split_over_ranks(samples, settings.ranks, settings.micro_batch_tokens, self._logit_chunk)
        scored = self.call_each("score_batch", [(share,) for share in shares])
        return {order[index]: scores for part in scored for index, scores in part.items()}

    def logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """The policy's log-probabilities (nats, temperature 1) of all tokens but the first."""
        return self.call_all("logprobs", list(token_ids))[0]

    def batches_trained(self) -> int:
        """Batches that the ranks have trained; waits for one that is under way."""
        return int(self.call_all("batches_trained")[0])

    def vocabulary_size(self) -> int:
        return int(self.call_all("vocabulary_size")[0])

    def connect_engines(
        self, workers: Sequence[Any], *, backend: Literal["gloo", "nccl"], ranks_per_engine: int, dtype: str
    ) -> None:
        """Form the weight-sync group with the engines of these rollout workers; `dtype` is theirs."""
        self.call_all("connect_engines", list(workers), backend, ranks_per_engine, dtype)

    def send_weights(self, version: int) -> None:
        """Send the policy to the connected engines, which must be paused, to be known as `version`."""
        self.call_all("send_weights", version)

    def save_pretrained(self, path: Path) -> None:
        """Write the policy in Hugging Face format; `path` is then whole, or absent."""
        self.call_all("save_pretrained", path)

    def save_state(self, path: Path) -> None:
        """Write optimizer, schedule, parameters and random state, for `load_state`."""
        self.call_all("save_state", path)

    def load_state(self, path: Path) -> None:
        """Take up what `save_state` wrote, in a gang with as many ranks, the same ZeRO stage and dtype."""
        self._batches = self.call_all("load_state", path)[0]

    def call_all(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every `LearnerRank` with the same arguments; results by rank."""
        return self.call_each(method, [arguments] * self.settings.ranks)

    def call_each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of every `LearnerRank`, each with its own arguments; results by rank."""
        deadline = time.monotonic() + self.settings.step_timeout_s
        refs = [actor.call.remote(method, *args) for actor, args in zip(self._actors, arguments, strict=True)]
        return self._gather(refs, deadline, method)

    def _gather(self, refs: list[Any], deadline: float, what: str) -> list[Any]:
        pending = list(refs)
        while pending:
            done, pending = ray.wait(pending, timeout=max(deadline - time.monotonic(), 0))
            if not done:
                late = [rank for rank, ref in enumerate(refs) if ref in pending]
                raise LearnerError(
                    f"{what}: ranks {late} of {len(refs)} did not finish in time; raise learner.step_timeout_s "
                    "(learner.start_timeout_s at the start), or look for a hung rank"
                )
            errors = _errors(done)
            if errors:
                if pending:
                    done, _ = ray.wait(pending, num_returns=len(pending), timeout=GRACE_S)
                    errors += _errors(done)
                raise LearnerError(
                    f"{what}: {len(errors)} of {len(refs)} ranks failed: "
                    + "; ".join(dict.fromkeys(_short(error) for error in errors))
                ) from errors[0]
        return ray.get(refs)

    def shutdown(self) -> None:
        """End the ranks' processes. A gang that was shut down can't be used again."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []


def _errors(refs: list[Any]) -> list[Exception]:
    """The failures among finished calls."""
    errors: list[Exception] = []
    for ref in refs:
        try:
            ray.get(ref, timeout=GRACE_S)
        except (RayError, GetTimeoutError) as error:
            errors.append(error)
    return errors


def _short(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"
