"""One rank of the learner: its networks, and the methods that the gang calls on all ranks."""

from __future__ import annotations

import json
import math
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.distributed import TCPStore

from learner.batching import OptimizerStep
from learner.deepspeed_engine import import_deepspeed
from learner.flops import ModelShape
from learner.losses.kl import adapted_coef
from learner.losses.scores import SampleScores
from learner.metrics import RankReport
from learner.networks import Networks
from learner.policy import score
from learner.settings import LearnerSettings
from learner.sft_update import fine_tune_step, measure_nll
from learner.sync.sync_report import SyncReport
from learner.update import score_batch, train_batch

if TYPE_CHECKING:
    from learner.sync.weight_sync import WeightSender

_STATE_FILE = "learner.json"


class LearnerRank:
    """Trains its share of every batch. Call each method on all ranks, because most methods are collective.

    `model` is the policy's plain Hugging Face module (its parameters are shards under ZeRO-3).
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
        """Join the gang over `store` and load the networks.

        Args:
            temperature: the rollouts' sampling temperature; log-probabilities are of softmax(logits / temperature).
            reference: checkpoint of the reference policy if `kl_coef` > 0; by default `checkpoint`.

        Raises:
            FileNotFoundError: a checkpoint has no config.json.
            ValueError: `temperature` is not above 0, or as `Networks`.
        """
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} gives no log-probabilities to train on; set it above 0")
        self.settings, self.checkpoint, self.rank = settings, checkpoint, rank
        self.device = torch.device(settings.device)
        if settings.device == "cpu":
            torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        self._join(store)
        self.networks = Networks(settings, checkpoint, reference or checkpoint, temperature)
        self.model = self.networks.model
        self.batches = 0
        self.kl_coef = settings.kl_coef
        self.sender: WeightSender | None = None

    def _join(self, store: TCPStore) -> None:
        ranks = self.settings.ranks
        # LOCAL_RANK is always 0, because Ray shows each rank only its own GPU.
        os.environ |= {"RANK": str(self.rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": "0"}
        os.environ |= {"MASTER_ADDR": store.host, "MASTER_PORT": str(store.port)}
        deepspeed = import_deepspeed(self.settings.device)
        torch.distributed.init_process_group(
            "nccl" if self.settings.device == "cuda" else "gloo",
            store=store,
            rank=self.rank,
            world_size=ranks,
            timeout=timedelta(seconds=self.settings.step_timeout_s),
        )
        deepspeed.init_distributed(verbose=False)

    def train_step(self, steps: list[OptimizerStep], lr_share: float = 1.0) -> RankReport:
        """Take the optimizer steps of one batch, see `train_batch`; collective."""
        self.batches += 1
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        report = train_batch(self.networks, steps, self.settings, self.kl_coef, lr_share)
        if self.settings.kl_target is not None and report.grad_norms:
            self._adapt_kl_coef(report.sums["kl_ref"] / len(report.grad_norms), self.settings.kl_target)
        report.peak_memory_gib = _peak_bytes(self.device) / 2**30
        return report

    def fine_tune(self, step: OptimizerStep) -> RankReport:
        """Take one supervised step, see `fine_tune_step`; collective."""
        self.batches += 1
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        report = fine_tune_step(self.networks, step)
        report.peak_memory_gib = _peak_bytes(self.device) / 2**30
        return report

    def measure_nll(self, step: OptimizerStep) -> float:
        """This rank's share of the mean negative log-likelihood of the step's sampled tokens, nats; collective."""
        return measure_nll(self.networks, step)

    def skip_batch(self) -> None:
        """Count a batch that the gang does not train on."""
        self.batches += 1

    def score_batch(self, step: OptimizerStep) -> dict[int, SampleScores]:
        """Score this rank's share of a batch before it is trained on, by `Sample.index`; collective."""
        return score_batch(self.networks, step, self.settings, self.kl_coef)

    def _adapt_kl_coef(self, share: float, target: float) -> None:
        kl = torch.tensor(share, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(kl)
        self.kl_coef = adapted_coef(self.kl_coef, float(kl), target)

    @torch.no_grad()
    def logprobs(self, token_ids: list[int]) -> list[float]:
        """Log-probabilities `[T - 1]` (nats) at temperature 1 of all tokens but the first; collective.

        Raises:
            ValueError: there are fewer than two tokens.
        """
        if len(token_ids) < 2:
            raise ValueError(f"token_ids has {len(token_ids)} entries; a probe needs at least 2")
        ids = torch.tensor(token_ids, device=self.device)
        boundaries = torch.tensor([0, len(ids)], dtype=torch.int32, device=self.device)
        positions = torch.arange(len(ids) - 1, device=self.device)
        chunks = math.ceil(len(positions) / self.settings.logit_chunk(self.vocabulary_size()))
        with self.networks.evaluating():
            scores = score(self.networks.policy.module, ids, boundaries, positions, ids[1:], 1.0, chunks)
        return scores.logprobs.tolist()

    def save_checkpoint(self, path: Path, state: Path) -> None:
        """Write the policy to `path`, then the state for a resume to `state`; collective."""
        self.save_pretrained(path)
        self.save_state(state)

    def save_pretrained(self, path: Path) -> None:
        """Write the policy in Hugging Face format, complete or not at all; collective.

        With LoRA the weights have the adapters merged, and `adapter/` has the adapter alone in peft's format.
        """
        from learner.checkpoint import staged, whole_state, write_pretrained
        from learner.lora import save_adapter

        leader, model = self.rank == 0, self.model
        with staged(path, leader=leader, barrier=torch.distributed.barrier) as stage:
            state = whole_state(model, keep=leader)
            if leader:
                write_pretrained(model, state, self.checkpoint, stage)
            if self.settings.lora.rank:
                save_adapter(model, self.settings.lora, self.checkpoint, stage / "adapter", leader=leader)

    def save_state(self, path: Path) -> None:
        """Write the state for a resume: parameters, optimizers, schedules, KL coefficient, random state; collective."""
        from learner.checkpoint import save_rng_state, staged
        from learner.training_state import save_module

        leader = self.rank == 0
        with staged(path, leader=leader, barrier=torch.distributed.barrier) as stage:
            for name, trained in self.networks.trained.items():
                save_module(trained, stage, name, leader=leader)
            save_rng_state(stage / f"rng_{self.rank}.pt", self.device)
            if leader:
                facts = {"batches": self.batches, "kl_coef": self.kl_coef, "networks": list(self.networks.trained)}
                (stage / _STATE_FILE).write_text(json.dumps(facts), encoding="utf-8")

    def load_state(self, path: Path) -> int:
        """Load a state that `save_state` wrote, with any number of ranks and any ZeRO stage; collective.

        Returns the number of batches trained before the state was saved.

        Raises:
            FileNotFoundError: there is no complete state at `path`.
            ValueError: the state is damaged or of another model, or only one of state and learner has a critic.
        """
        from learner.checkpoint import load_rng_state, read_facts
        from learner.training_state import load_module

        if not (path / _STATE_FILE).is_file():
            raise FileNotFoundError(f"learner state {path} has no {_STATE_FILE}; give a directory from save_state")
        facts = read_facts(path / _STATE_FILE)
        trained = self.networks.trained
        if facts["networks"] != list(trained):
            raise ValueError(
                f"learner state {path} holds {facts['networks']}, this learner trains {list(trained)}; "
                "set critic.kind as it was when the state was saved"
            )
        for name, module in trained.items():
            load_module(module, path, name)
        own_rng = path / f"rng_{self.rank}.pt"
        if own_rng.is_file():  # if the gang has grown, its new ranks have no saved random state
            load_rng_state(own_rng, self.device)
        self.batches = facts["batches"]
        if self.settings.kl_target is not None:
            self.kl_coef = facts["kl_coef"]
        return self.batches

    def batches_trained(self) -> int:
        """Number of batches since the beginning, those before a resume included."""
        return self.batches

    def vocabulary_size(self) -> int:
        return int(self.model.config.vocab_size)

    def model_shape(self) -> ModelShape:
        """The numbers that the policy's floating-point work depends on."""
        config = self.model.config
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return ModelShape(
            parameters=self.networks.parameters,
            layers=config.num_hidden_layers,
            width=config.num_attention_heads * head_size,
            device_name=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
        )

    def connect_engines(
        self, workers: list[Any], backend: Literal["gloo", "nccl"], ranks_per_engine: int, dtype: str
    ) -> None:
        """Form the weight-sync group with the rollout workers' engines; collective. `dtype` is the engines'."""
        from learner.sync.weight_sync import WeightSender

        if self.sender is not None:
            # Close the old group explicitly. Engines still waiting in it leave only when it closes, and a stored
            # exception may hold a reference, so garbage collection won't close it.
            self.sender.close()
        self.sender = WeightSender(
            self.model,
            rank=self.rank,
            backend=backend,
            workers=workers,
            ranks_per_engine=ranks_per_engine,
            wire_dtype=getattr(torch, dtype),
            bucket_bytes=self.settings.sync_bucket_mib * 2**20,
            # The limit of one wait. A sync makes three waits in turn. All must end before the gang's own deadline,
            # whose message names only this rank and not the late worker.
            timeout_s=self.settings.step_timeout_s / 4,
        )
        self.sender.connect()

    def send_weights(self, version: int) -> SyncReport:
        """Send the policy to the connected engines as weight version `version`; collective.

        Raises:
            RuntimeError: no engines are connected.
        """
        if self.sender is None:
            raise RuntimeError(f"version {version} can't be sent: no engine is connected; call connect_engines() first")
        return self.sender.send(version)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not `ru_maxrss`: a child process inherits its parent's value, which may be larger.
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in status if line.startswith("VmHWM:")))
