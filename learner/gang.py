"""The learner gang: the driver's handle on all DeepSpeed ranks. Imports no torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.episodes.trajectory import Trajectory
from actors.errors import ExplainedError
from actors.stacks import Whereabouts, save_stacks
from learner.batching import (
    OptimizerStep,
    Sample,
    canonical_order,
    make_samples,
    packing,
    plan_steps,
    split_over_ranks,
)
from learner.flops import peak_flops, work_metrics
from learner.losses.bad_batches import BadBatches, NonFiniteError, bad_input, bad_scores, some
from learner.losses.credit import credited_samples
from learner.losses.scores import SampleScores
from learner.metrics import SFT_METRICS, merge_reports
from learner.rank_process import RankProcess
from learner.settings import LearnerSettings
from learner.sft import SftExample, make_sft_samples
from learner.sync.sync_report import SyncReport

log = logging.getLogger(__name__)

GRACE_S = 5.0
"""How long to wait for the other ranks' errors after the first: that one may only say that a neighbour went away."""


class LearnerError(ExplainedError, RuntimeError):
    """A rank failed, died or missed its deadline; the gang can't be used any more."""


class RankLost(LearnerError):
    """A rank died or missed its deadline; `restart` may help."""


@dataclass(frozen=True, slots=True)
class Call:
    """A pending call of one method on every rank."""

    method: str
    refs: list[Any]
    deadline: float  # in the time of `time.monotonic`


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
        bad_batches: Path | None = None,
        stalls: Path | None = None,
    ) -> None:
        """Start the ranks and wait for them.

        Args:
            checkpoint: the policy, a directory in Hugging Face format that every node can read.
            temperature: the rollouts' sampling temperature.
            reference: the reference policy if `kl_coef` > 0; by default `checkpoint`.
            placement: placement group to start in.
            bundles: each rank's bundle in `placement`; by default any.
            cpus_per_rank: Ray CPUs that a rank reserves; by default its number of threads.
            bad_batches: folder for batches that could not be trained on; by default they are not saved.
            stalls: folder for the stacks of late ranks; by default none are taken.

        Raises:
            ValueError: `bundles` doesn't give one bundle per rank.
            LearnerError: a rank failed to start, or not within `start_timeout_s`.
        """
        if bundles is not None and len(bundles) != settings.ranks:
            raise ValueError(f"bundles={list(bundles)} must give one bundle per rank, ranks={settings.ranks}")
        self.settings = settings
        self._arguments = {"checkpoint": checkpoint, "temperature": temperature, "reference": reference}
        self._placement, self._bundles = placement, bundles
        self._cpus_per_rank = settings.threads if cpus_per_rank is None else cpus_per_rank
        self._bad = BadBatches(settings.max_bad_steps, bad_batches)
        self._stalls = stalls
        self._where: list[Whereabouts] = []
        self._newest_state: Path | None = None  # loaded by a restart
        self._restarts = 0
        self._actors: list[Any] = []
        self._start()

    def _start(self) -> None:
        """Start the ranks and wait for them."""
        began = time.monotonic()
        try:
            self._actors = [self._start_process(rank) for rank in range(self.settings.ranks)]
            self._form(began + self.settings.start_timeout_s)
        except BaseException:
            self.shutdown()
            raise
        log.info("learner gang of %d ranks ready in %.1f s", self.settings.ranks, time.monotonic() - began)

    def _start_process(self, rank: int) -> Any:
        strategy: Any = "DEFAULT"
        if self._placement is not None:
            bundle = self._bundles[rank] if self._bundles else -1
            strategy = PlacementGroupSchedulingStrategy(self._placement, bundle)
        options = ray.remote(RankProcess).options(
            num_cpus=self._cpus_per_rank,
            num_gpus=1 if self.settings.device == "cuda" else 0,
            max_restarts=0,  # a new process would lack the optimizer state; `restart` loads it for the whole gang
            scheduling_strategy=strategy,
        )
        return options.remote(self.settings)

    def _form(self, deadline: float) -> None:
        """Make the processes ranks of one gang, before `deadline`."""
        opened = self._actors[0].open_store.remote()
        where = [actor.whereabouts.remote() for actor in self._actors]
        refs = [actor.warm.remote() for actor in self._actors]
        (address,) = self._gather([opened], deadline, "open_store")
        self._where = self._gather(where, deadline, "start their processes")
        self._gather(refs, deadline, "import DeepSpeed")
        refs = [actor.start.remote(rank, address, self._arguments) for rank, actor in enumerate(self._actors)]
        self._gather(refs, deadline, "start")
        self._ready()

    def _ready(self) -> None:
        """Set the batch count to 0, and ask the ranks for the numbers that planning a batch needs."""
        self._batches = 0
        self._logit_chunk = self.settings.logit_chunk(self.vocabulary_size())
        self._shape = self.call_all("model_shape")[0]

    def restart(self) -> int:
        """Restart all ranks after one was lost, from the newest state saved or loaded, else from the beginning.

        Afterwards the engines must be connected again. Returns the number of batches trained before that state; the
        caller must train on the later batches again.

        Raises:
            LearnerError: `max_restarts` restarts were made before, or the ranks can't be started.
        """
        if self._restarts >= self.settings.max_restarts:
            raise LearnerError(
                f"the learner gang lost a rank after {self._restarts} restarts (learner.max_restarts="
                f"{self.settings.max_restarts}); find out what kills its ranks, such as too little memory, or raise "
                "max_restarts"
            )
        self._restarts += 1
        self.shutdown()
        self._start()
        if self._newest_state is not None:
            self.load_state(self._newest_state)
        log.warning("learner gang restarted from batch %d (%s)", self._batches, self._newest_state or "the beginning")
        return self._batches

    def train_step(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """Train on one batch of whole groups; returns metrics of `LEARNER_METRICS`.

        At the first number that is not finite (a reward, log-probability, value, KL penalty, loss or gradient) the rest
        of the batch is skipped, and `bad_steps` is 1.

        Raises:
            ValueError: a trajectory has no reward, or the batch has no sampled token.
            NonFiniteError: this was the last of `max_bad_steps` bad batches in a row.
            RankLost: a rank died or was late.
            LearnerError: a rank failed.
        """
        began = time.monotonic()
        scores: dict[int, SampleScores] = {}
        found = bad_input(trajectories)
        if found is None and self.settings.scores_first:
            scores = self._score(trajectories)
            found = bad_scores(trajectories, scores)
        if found is not None:
            self.skip_batch()
            self._bad.add(self._batches, *found, trajectories)
            return {"bad_steps": 1.0, "optimizer_steps": 0.0, "step_seconds": time.monotonic() - began}
        samples, credit = credited_samples(trajectories, self.settings, scores)
        shares = plan_steps(
            samples,
            ranks=self.settings.ranks,
            ppo_epochs=self.settings.ppo_epochs,
            minibatches=self.settings.minibatches,
            micro_batch_tokens=self.settings.micro_batch_tokens,
            logit_chunk_tokens=self._logit_chunk,
            seed=(self.settings.seed, self._batches),
        )
        lr_share = self._lr_share(trajectories)
        reports = self.call_each("train_step", [(share, lr_share) for share in shares])
        self._batches += 1
        bad = reports[0].bad
        if bad is None:
            self._bad.good()
        else:
            suspects = sorted({name for r in reports if r.bad is not None for name in r.bad.suspects})
            self._bad.add(self._batches, bad.reason, suspects, trajectories)
        work = self._work(samples, time.monotonic() - began, self.settings.ppo_epochs)
        return merge_reports(reports) | credit | work | packing(shares, self.settings.micro_batch_tokens)

    def fine_tune(self, examples: Sequence[SftExample]) -> dict[str, float]:
        """Take one supervised step on the mean negative log-likelihood of all sampled tokens together.

        Returns the metrics `SFT_METRICS` and those of the work done; `loss` is that mean, in nats.

        Raises:
            ValueError: there are no examples, or one has nothing to learn.
            NonFiniteError: the loss or its gradient is not finite; the step was not taken.
            LearnerError: a rank failed, died or was late.
        """
        began = time.monotonic()
        samples = make_sft_samples(examples)
        reports = self.call_each("fine_tune", [(share,) for share in self._split(samples)])
        self._batches += 1
        if (bad := reports[0].bad) is not None:
            suspects = sorted({name for r in reports if r.bad is not None for name in r.bad.suspects})
            raise NonFiniteError(f"{bad.reason}, among {some(suspects)}; the step was not taken. Lower sft.lr")
        metrics = merge_reports(reports)
        work = self._work(samples, time.monotonic() - began, passes=1)
        return {name: metrics[name] for name in SFT_METRICS} | work

    def measure_nll(self, examples: Sequence[SftExample]) -> float:
        """The mean negative log-likelihood of all sampled tokens together, nats; does not train."""
        shares = self._split(make_sft_samples(examples))
        return float(sum(self.call_each("measure_nll", [(share,) for share in shares])))

    def _split(self, samples: Sequence[Sample]) -> list[OptimizerStep]:
        """Split one pass over `samples` into a share for each rank."""
        settings = self.settings
        return split_over_ranks(samples, settings.ranks, settings.micro_batch_tokens, self._logit_chunk)

    def _score(self, trajectories: Sequence[Trajectory]) -> dict[int, SampleScores]:
        """The ranks' scores of a batch before they train on it, by index in `trajectories`."""
        order = canonical_order(trajectories)
        samples = make_samples(trajectories, np.zeros(len(trajectories)))
        scored = self.call_each("score_batch", [(share,) for share in self._split(samples)])
        return {order[index]: scores for part in scored for index, scores in part.items()}

    def _lr_share(self, trajectories: Sequence[Trajectory]) -> float:
        """The factor on the learning rate: 1 / the mean staleness of the batch's sampled tokens, at most 1."""
        if not self.settings.lr_by_staleness:
            return 1.0
        versions = np.concatenate([t.versions[t.sampled] for t in trajectories])
        return 1.0 / max(1.0, self._batches - float(versions.mean()))

    def _work(self, samples: Sequence[Sample], seconds: float, passes: int) -> dict[str, float]:
        given = self.settings.peak_tflops
        peak = given * 1e12 if given is not None else peak_flops(self._shape.device_name)
        whole = peak * self.settings.ranks if peak is not None else None
        trained = sum(s.trained_tokens for s in samples)
        return work_metrics(self._shape, [len(s) for s in samples], trained, passes, seconds, whole)

    def pids(self) -> list[int]:
        """The ranks' process ids, each valid on the rank's own node."""
        return [where.pid for where in self._where]

    def logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """The policy's log-probabilities `[T - 1]` (nats, temperature 1) of all tokens but the first."""
        return self.call_all("logprobs", list(token_ids))[0]

    def batches_trained(self) -> int:
        """Number of batches that the ranks have trained; waits for a batch under way."""
        return int(self.call_all("batches_trained")[0])

    def vocabulary_size(self) -> int:
        return int(self.call_all("vocabulary_size")[0])

    def connect_engines(
        self, workers: Sequence[Any], *, backend: Literal["gloo", "nccl"], ranks_per_engine: int, dtype: str
    ) -> None:
        """Form the weight-sync group with these rollout workers' engines; `dtype` is the engines'."""
        self.call_all("connect_engines", list(workers), backend, ranks_per_engine, dtype)

    def send_weights(self, version: int) -> SyncReport:
        """Send the policy to the connected engines as weight version `version`; the engines pause themselves for it."""
        report: SyncReport = self.call_all("send_weights", version)[0]
        return report

    def save_pretrained(self, path: Path) -> None:
        """Write the policy in Hugging Face format; `path` appears complete or not at all."""
        self.call_all("save_pretrained", path)

    def save_state(self, path: Path) -> None:
        """Write optimizer, schedule, parameters and random state, for `load_state`."""
        self.call_all("save_state", path)
        self.restart_from(path)

    def load_state(self, path: Path) -> None:
        """Load a state that `save_state` wrote, with any number of ranks and any ZeRO stage."""
        self._batches = self.call_all("load_state", path)[0]
        self.restart_from(path)

    def restart_from(self, path: Path) -> None:
        """From now on, `restart` loads the state in this folder."""
        self._newest_state = path

    def call_all(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every `LearnerRank` with the same arguments; results by rank."""
        return self.call_each(method, [arguments] * self.settings.ranks)

    def call_each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of every `LearnerRank`, each with its own arguments; results by rank."""
        return self.end(self._begin_each(method, arguments))

    def begin(self, method: str, *arguments: Any) -> Call:
        """Start a call of a method of every `LearnerRank` and return at once; later calls queue behind it."""
        return self._begin_each(method, [arguments] * self.settings.ranks)

    def end(self, call: Call) -> list[Any]:
        """Wait for a call that `begin` started; results by rank."""
        return self._gather(call.refs, call.deadline, call.method)

    def skip_batch(self) -> None:
        """Count a batch without training on it."""
        self.call_all("skip_batch")
        self._batches += 1

    def _begin_each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> Call:
        if not self._actors:
            raise RankLost(f"{method}: the gang was shut down; restart it")
        deadline = time.monotonic() + self.settings.step_timeout_s
        refs = [actor.call.remote(method, *args) for actor, args in zip(self._actors, arguments, strict=True)]
        return Call(method, refs, deadline)

    def _gather(self, refs: list[Any], deadline: float, what: str) -> list[Any]:
        pending = list(refs)
        while pending:
            done, pending = ray.wait(pending, timeout=max(deadline - time.monotonic(), 0))
            if not done:
                late = [rank for rank, ref in enumerate(refs) if ref in pending]
                self._save_stacks(what)
                raise RankLost(
                    f"{what}: ranks {late} of {len(refs)} did not finish in time; raise learner.step_timeout_s "
                    "(learner.start_timeout_s at the start), or look for a hung rank"
                )
            errors = _errors(done)
            if errors:
                if pending:
                    done, pending = ray.wait(pending, num_returns=len(pending), timeout=GRACE_S)
                    errors += _errors(done)
                raise (RankLost if lost(errors, silent=len(pending)) else LearnerError)(
                    f"{what}: {len(errors)} of {len(refs)} ranks failed: "
                    + "; ".join(dict.fromkeys(_short(error) for error in errors))
                ) from errors[0]
        return ray.get(refs)

    def _save_stacks(self, what: str) -> None:
        """Save the stacks of all ranks, not only of the late ones: a late rank may be waiting for another."""
        if self._stalls is not None and self._where:
            file = save_stacks(self._stalls, f"learner_{what.replace(' ', '_')}", self._where)
            log.warning("ranks are late to %s; their stacks are in %s", what, file)

    def shutdown(self) -> None:
        """End the ranks' processes. Only `restart` makes the gang usable again."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []


def _errors(refs: list[Any]) -> list[Exception]:
    """The errors of finished calls."""
    errors: list[Exception] = []
    for ref in refs:
        try:
            ray.get(ref, timeout=GRACE_S)
        except (RayError, GetTimeoutError) as error:
            errors.append(error)
    return errors


def lost(errors: Sequence[Exception], *, silent: int) -> bool:
    """Whether a rank was lost, judged by the errors of the ranks' calls; `silent` calls have not answered at all.

    Ray reports a lost process at once, but a lost node only after a while. Until then the lost rank is silent, and the
    others raise RuntimeError, as torch's collectives do when a neighbour is gone.
    """
    raised = [error.cause for error in errors if isinstance(error, RayTaskError)]
    if len(raised) < len(errors):
        return True
    return silent > 0 and all(isinstance(cause, RuntimeError) for cause in raised)


def _short(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"
