"""One rank of the learner: a DeepSpeed engine around the policy, one process each."""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import torch
import transformers
from torch import Tensor
from torch.distributed import TCPStore

from learner.aggregation import StepTotals
from learner.batching import MicroBatch, OptimizerStep, Sample, collate
from learner.kl import adapted_coef, kl_estimate
from learner.losses import LossTerms, TokenScores, TrainedTokens, policy_loss
from learner.metrics import RankReport
from learner.policy import TokenScorer, load_model, score
from learner.scores import SampleScores
from learner.settings import LearnerSettings

log = logging.getLogger(__name__)

_STATE_FILE = "learner.json"
_STATE_TAG = "state"


class NonFiniteError(RuntimeError):
    """The loss or its gradient is not a number; the message names the step and the trajectories."""


def import_deepspeed(device: str) -> Any:  # the module; its stubs are not followed
    """Import DeepSpeed for `device` without compiling anything.

    Left alone, DeepSpeed on CPU compiles a C++ shared-memory op when torch.distributed starts; it only serves
    inference. An empty table of compatible ops keeps it from that and from probing for compilers.
    """
    os.environ["DS_ACCELERATOR"] = device
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}
    # DeepSpeed calls torch collectives by names that torch 2.13 has deprecated, at every step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    transformers.utils.logging.disable_progress_bar()
    return deepspeed


def deepspeed_config(settings: LearnerSettings, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration. Bucket sizes are capped at the model's `parameters`.

    The defaults of 5e8 elements would allocate 2 GB per rank whatever the model.
    """
    opt = settings.optimizer
    zero: dict[str, Any] = {"stage": settings.zero_stage, "overlap_comm": settings.device == "cuda"}
    bucket = min(int(5e8), max(parameters, 1))
    zero |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if settings.zero_stage == 3:
        zero["stage3_prefetch_bucket_size"] = min(int(5e7), bucket)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # the rank sets the boundaries itself: batches differ in length
        "gradient_clipping": settings.max_grad_norm,
        "zero_optimization": zero,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": opt.lr,
                "betas": list(opt.betas),
                "eps": opt.eps,
                "weight_decay": opt.weight_decay,
                "torch_adam": True,
            },
        },
    }
    if settings.dtype == "bfloat16":
        config |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    return config


class LearnerRank:
    """Trains its share of every batch. All ranks must be called alike: most methods are collective.

    `model` is the plain Hugging Face module (its parameters are shards under ZeRO-3), for weight sync.
    """

    def __init__(
        self,
        settings: LearnerSettings,
        *,
        checkpoint: Path,
        temperature: float,
        rank: int,
        store: TCPStore,
        reference: Path | None = None,
    ) -> None:
        """Join the gang over `store` and load the policy.

        Args:
            temperature: what the rollouts sample with; log-probabilities are of softmax(logits / temperature).
            reference: checkpoint of the reference policy when `kl_coef` > 0; `checkpoint` if not given.

        Raises:
            ValueError: `temperature` is not above 0, or the architecture is not supported.
        """
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} has no log-probabilities to train on; set it above 0")
        self.settings, self.checkpoint, self.temperature, self.rank = settings, checkpoint, temperature, rank
        self.device = torch.device(settings.device)
        if settings.device == "cpu":
            torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        self._join(store)
        dtype = getattr(torch, settings.dtype)
        self.model = load_model(checkpoint, dtype).to(self.device)
        scorer = TokenScorer(self.model, entropy_grad=settings.entropy_coef > 0)
        scorer.check()
        self.reference: TokenScorer | None = None
        if settings.kl_coef > 0:
            frozen = load_model(reference or checkpoint, dtype).to(self.device).eval().requires_grad_(False)
            self.reference = TokenScorer(frozen)
        if settings.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.engine = self._start_engine(scorer)
        self.batches = 0
        self.kl_coef = settings.kl_coef

    def _join(self, store: TCPStore) -> None:
        ranks = self.settings.ranks
        # Ray shows each rank its own GPU only, hence LOCAL_RANK 0.
        os.environ |= {"RANK": str(self.rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": "0"}
        os.environ |= {"MASTER_ADDR": store.host, "MASTER_PORT": str(store.port)}
        self._deepspeed = import_deepspeed(self.settings.device)
        torch.distributed.init_process_group(
            "nccl" if self.settings.device == "cuda" else "gloo",
            store=store,
            rank=self.rank,
            world_size=ranks,
            timeout=timedelta(seconds=self.settings.step_timeout_s),
        )
        self._deepspeed.init_distributed(verbose=False)

    def _start_engine(self, scorer: TokenScorer) -> Any:
        config = deepspeed_config(self.settings, sum(p.numel() for p in self.model.parameters()))
        factor = self.settings.optimizer.lr_factor
        engine, *_ = self._deepspeed.initialize(
            model=scorer,
            model_parameters=[p for p in scorer.parameters() if p.requires_grad],
            config=config,
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step)),
        )
        engine.train()
        return engine

    def train_step(self, steps: list[OptimizerStep]) -> RankReport:
        """Take the optimizer steps of one batch; collective.

        Raises:
            NonFiniteError: a loss or gradient is not finite. On a loss, no rank has taken the step.
        """
        self.batches += 1
        report = RankReport(kl_coef=self.kl_coef)
        for number, step in enumerate(steps):
            self._optimizer_step(step, report, first=number == 0)
        if self.settings.kl_target is not None:
            self._adapt_kl_coef(report.sums["kl_ref"] / len(steps), self.settings.kl_target)
        return report

    def _adapt_kl_coef(self, share: float, target: float) -> None:
        kl = torch.tensor(share, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(kl)
        self.kl_coef = adapted_coef(self.kl_coef, float(kl), target)

    @torch.no_grad()
    def score_batch(self, step: OptimizerStep) -> dict[int, SampleScores]:
        """Score this rank's share of a batch before it is trained on, by `Sample.index`; collective."""
        self.engine.eval()
        scores: dict[int, SampleScores] = {}
        for samples, chunks in zip(step.micro_batches, step.head_chunks, strict=True):
            batch = collate(samples)
            old = self._score(self.engine.module, batch, chunks).logprobs
            kl = torch.zeros_like(old)
            if self.reference is not None:
                kl = kl_estimate(old, self._score(self.reference, batch, chunks).logprobs, self.settings.kl_estimator)
            lengths = [s.trained_tokens for s in samples]
            if samples:
                for sample, logprobs, kls in zip(samples, old.split(lengths), kl.split(lengths), strict=True):
                    scores[sample.index] = SampleScores(logprobs.cpu().numpy(), self.kl_coef * float(kls.sum()))
        self.engine.train()
        return scores

    def _optimizer_step(self, step: OptimizerStep, report: RankReport, *, first: bool) -> None:
        terms: list[LossTerms] = []
        last = len(step.micro_batches) - 1
        for place, samples in enumerate(step.micro_batches):
            self.engine.set_gradient_accumulation_boundary(place == last)
            batch_terms = self._loss(samples, step.head_chunks[place], step, report)
            # DeepSpeed averages gradients over ranks; the loss is a share of a sum.
            self.engine.backward(batch_terms.loss * self.settings.ranks)
            terms.append(batch_terms)
        self._check_losses(torch.stack([t.loss.detach() for t in terms]), step)
        grad_norm = self._whole_grad_norm() if self.settings.zero_stage == 0 else None
        if grad_norm is not None:
            self._check_grad_norm(grad_norm, step)
        report.lr = self.engine.get_lr()[0]
        self.engine.step()
        if grad_norm is None:  # under ZeRO the norm is known only after the step
            grad_norm = float(self.engine.get_global_grad_norm())
            self._check_grad_norm(grad_norm, step)
        report.grad_norms.append(grad_norm)
        self._add_terms(terms, report, first=first)

    def _loss(self, samples: tuple[Sample, ...], chunks: int, step: OptimizerStep, report: RankReport) -> LossTerms:
        batch = collate(samples)
        report.real_tokens += batch.real_tokens
        report.padded_tokens += batch.token_ids.size
        reference = None
        if self.reference is not None:
            with torch.no_grad():
                reference = self._score(self.reference, batch, chunks).logprobs
        scores = self._score(self.engine, batch, chunks)
        # Unscored batches take one optimizer step, in which the policy still is the one that the batch came to.
        old = scores.logprobs.detach() if batch.old_logprobs is None else self._tensor(batch.old_logprobs)
        boundaries, positions = self._tensor(batch.boundaries), self._tensor(batch.positions)
        tokens = TrainedTokens(
            sampler_logprobs=self._tensor(batch.logprobs),
            advantages=self._tensor(batch.advantages),
            weights=self._tensor(batch.weights),
            sequence=torch.searchsorted(boundaries[1:], positions, right=True),
            old_logprobs=old,
            ref_logprobs=reference,
        )
        totals = StepTotals(step.token_count, step.sequence_count)
        return policy_loss(scores, tokens, self.settings, totals, kl_coef=self.kl_coef)

    def _score(self, scorer: torch.nn.Module, batch: MicroBatch, chunks: int) -> TokenScores:
        ids, boundaries = self._tensor(batch.token_ids), self._tensor(batch.boundaries)
        positions, targets = self._tensor(batch.positions), self._tensor(batch.targets)
        return score(scorer, ids, boundaries, positions, targets, self.temperature, chunks)

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _add_terms(self, terms: list[LossTerms], report: RankReport, *, first: bool) -> None:
        for name, attribute in (
            ("loss", "loss"),
            ("policy_loss", "policy_loss"),
            ("kl_ref", "kl_ref"),
            ("entropy", "entropy"),
            ("clip_fraction_low", "clipped_low"),
            ("clip_fraction_high", "clipped_high"),
            ("ratio_mean", "ratio"),
            ("approx_kl", "approx_kl"),
            ("importance_mean", "importance"),
            ("importance_cut", "importance_cut"),
        ):
            report.sums[name] += float(torch.stack([getattr(t, attribute).detach() for t in terms]).sum())
        if first:
            report.ratio_max_deviation = float(torch.stack([t.ratio_deviation_max for t in terms]).max())
            report.logprob_diff_mean = float(torch.stack([t.logprob_diff for t in terms]).sum())
            report.logprob_diff_max = float(torch.stack([t.logprob_diff_max for t in terms]).max())

    def _check_losses(self, losses: Tensor, step: OptimizerStep) -> None:
        bad = ~torch.isfinite(losses)
        anywhere = bad.any().to(torch.int32)
        torch.distributed.all_reduce(anywhere, op=torch.distributed.ReduceOp.MAX)
        if not anywhere.item():
            return
        where = "trained by another rank"
        if bad.any():
            labels = [s.label for i in bad.nonzero().flatten().tolist() for s in step.micro_batches[i]]
            where = f"among {len(labels)} trajectories of a micro-batch: {_some(labels)}"
        raise NonFiniteError(
            f"loss is not finite at optimizer step {self.engine.global_steps} (batch {self.batches}), {where}; "
            "the step was not taken. Lower optimizer.lr, or check the sampler's log-probabilities"
        )

    def _check_grad_norm(self, norm: float, step: OptimizerStep) -> None:
        if math.isfinite(norm):
            return
        labels = [s.label for samples in step.micro_batches for s in samples]
        raise NonFiniteError(
            f"grad_norm={norm} at optimizer step {self.engine.global_steps} (batch {self.batches}) with the loss "
            f"finite, trajectories {_some(labels)}; the parameters may be spoilt: resume from the last checkpoint "
            "with a lower optimizer.lr"
        )

    def _whole_grad_norm(self) -> float:
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))

    @torch.no_grad()
    def logprobs(self, token_ids: list[int]) -> list[float]:
        """Log-probabilities (nats, float32) at temperature 1 of all tokens but the first; collective.

        Raises:
            ValueError: fewer than two tokens.
        """
        if len(token_ids) < 2:
            raise ValueError(f"token_ids has {len(token_ids)} entries; a probe needs at least 2")
        ids = torch.tensor(token_ids, device=self.device)
        boundaries = torch.tensor([0, len(ids)], dtype=torch.int32, device=self.device)
        positions = torch.arange(len(ids) - 1, device=self.device)
        chunks = math.ceil(len(positions) / self.settings.logit_chunk(self.vocabulary_size()))
        self.engine.eval()
        result = score(self.engine.module, ids, boundaries, positions, ids[1:], 1.0, chunks).logprobs.tolist()
        self.engine.train()
        return result

    def save_pretrained(self, path: Path) -> None:
        """Write the policy in Hugging Face format, whole or not at all; collective."""
        from learner.checkpoint import staged, whole_state, write_pretrained

        leader = self.rank == 0
        with staged(path, leader=leader, barrier=torch.distributed.barrier) as stage:
            state = whole_state(self.model, keep=leader)
            if leader:
                write_pretrained(self.model, state, self.checkpoint, stage)

    def save_state(self, path: Path) -> None:
        """Write what a resume needs (parameters, optimizer, schedule, random state); collective."""
        from learner.checkpoint import rng_state, staged

        with staged(path, leader=self.rank == 0, barrier=torch.distributed.barrier) as stage:
            self.engine.save_checkpoint(stage, tag=_STATE_TAG)
            torch.save(rng_state(self.device), stage / f"rng_{self.rank}.pt")
            if self.rank == 0:
                facts = {**self._layout(), "batches": self.batches, "optimizer_steps": self.engine.global_steps}
                facts["kl_coef"] = self.kl_coef
                (stage / _STATE_FILE).write_text(json.dumps(facts), encoding="utf-8")

    def load_state(self, path: Path) -> int:
        """Take up what `save_state` wrote; collective. Returns the number of batches trained before.

        Raises:
            FileNotFoundError: there is no whole state at `path`.
            ValueError: it was written with other ranks, ZeRO stage or dtype.
        """
        from learner.checkpoint import restore_rng_state

        if not (path / _STATE_FILE).is_file():
            raise FileNotFoundError(f"learner state {path} has no {_STATE_FILE}; give a directory from save_state")
        facts = json.loads((path / _STATE_FILE).read_text(encoding="utf-8"))
        for name, value in self._layout().items():
            if facts[name] != value:
                raise ValueError(f"{name}={value}, but learner state {path} was saved with {name}={facts[name]}")
        loaded, _ = self.engine.load_checkpoint(str(path), tag=_STATE_TAG)
        if loaded is None:
            raise FileNotFoundError(f"learner state {path}: DeepSpeed found no checkpoint {_STATE_TAG!r} in it")
        restore_rng_state(torch.load(path / f"rng_{self.rank}.pt"), self.device)
        self.batches = facts["batches"]
        if self.settings.kl_target is not None:
            self.kl_coef = facts["kl_coef"]
        return self.batches

    def batches_trained(self) -> int:
        """Batches trained since the beginning, those before a resume included."""
        return self.batches

    def vocabulary_size(self) -> int:
        return int(self.model.config.vocab_size)

    def connect_engines(
        self, workers: list[Any], backend: Literal["gloo", "nccl"], ranks_per_engine: int, dtype: str
    ) -> None:
        """Form the weight-sync group with the rollout workers' engines; collective. `dtype` is the engines'."""
        from learner.weight_sync import WeightSender

        self.sender = WeightSender(
            self.model,
            rank=self.rank,
            backend=backend,
            workers=workers,
            ranks_per_engine=ranks_per_engine,
            wire_dtype=getattr(torch, dtype),
            # Of a single wait. A sync makes three in turn, and the late worker is to be named before the gang's
            # own deadline only says that this rank is late.
            timeout_s=self.settings.step_timeout_s / 4,
        )
        self.sender.connect()

    def send_weights(self, version: int) -> None:
        """Send the policy to the connected engines, to be known as `version`; collective."""
        self.sender.send(version)

    def _layout(self) -> dict[str, Any]:
        return {name: getattr(self.settings, name) for name in ("ranks", "zero_stage", "dtype")}


def _some(labels: list[str], most: int = 8) -> str:
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more
