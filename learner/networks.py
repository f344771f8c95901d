"""The networks of a rank: the policy, the reference policy of the KL term, and the critic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from learner.batching import MicroBatch
from learner.critic import CriticModel, ValueHead
from learner.deepspeed_engine import TrainedModule
from learner.losses.policy_loss import TokenScores
from learner.policy import TokenScorer, load_model, score
from learner.settings import LearnerSettings


class Networks:
    """Loads all networks, puts the trained ones under DeepSpeed, and runs them on micro-batches.

    `model` is the policy's plain Hugging Face module (its parameters are shards under ZeRO-3).
    """

    def __init__(self, settings: LearnerSettings, checkpoint: Path, reference: Path, temperature: float) -> None:
        """Load the networks that the settings need; torch.distributed must be initialised.

        Raises:
            FileNotFoundError: a checkpoint has no config.json.
            ValueError: an architecture is not supported, the reference has another vocabulary, or with LoRA the
                reference is another checkpoint than the policy's.
        """
        self.settings, self.checkpoint, self.temperature = settings, checkpoint, temperature
        self.device = torch.device(settings.device)
        self.dtype: torch.dtype = getattr(torch, settings.dtype)
        self.model = load_model(checkpoint, self.dtype).to(self.device)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        scorer = TokenScorer(
            self.model, entropy_grad=settings.entropy_coef > 0, keep_hidden=settings.critic.kind == "head"
        )
        scorer.check()
        if settings.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if settings.lora.rank:
            from learner.lora import add_adapters

            add_adapters(self.model, settings.lora)
        self._reference = self._load_reference(reference, scorer)
        self.policy = TrainedModule(scorer, settings, settings.optimizer)
        self.critic = self._start_critic()

    @property
    def trained(self) -> dict[str, TrainedModule]:
        """The trained networks, by name."""
        return {"policy": self.policy} | ({"critic": self.critic} if self.critic is not None else {})

    def _load_reference(self, checkpoint: Path, policy: TokenScorer) -> TokenScorer | None:
        settings = self.settings
        if settings.kl_coef == 0:
            return None
        if settings.lora.rank:
            if checkpoint != self.checkpoint:
                raise ValueError(
                    f"reference={checkpoint} with lora.rank={settings.lora.rank}: with LoRA the reference is the "
                    f"policy without its adapters, {self.checkpoint}; leave reference out or set lora.rank=0"
                )
            return policy
        frozen = load_model(checkpoint, self.dtype).eval().requires_grad_(False)
        own, other = (m.get_input_embeddings().num_embeddings for m in (self.model, frozen))
        if own != other:
            raise ValueError(
                f"reference={checkpoint} has a vocabulary of {other} tokens and the policy {self.checkpoint} one of "
                f"{own}; the KL compares the same tokens: set policy.reference to a checkpoint with the policy's "
                "tokenizer"
            )
        reference = TokenScorer(frozen.to(self.device))
        reference.check()
        return reference.to("cpu") if settings.offload_reference else reference

    def _start_critic(self) -> TrainedModule | None:
        settings = self.settings
        module: nn.Module
        if settings.critic.kind == "none":
            return None
        if settings.critic.kind == "head":
            module = ValueHead(self.model.get_input_embeddings().embedding_dim, self.dtype)
        else:
            module = CriticModel(self.checkpoint, self.dtype, gradient_checkpointing=settings.gradient_checkpointing)
        return TrainedModule(module.to(self.device), settings, settings.critic.optimizer)

    @contextmanager
    def reference_at_hand(self) -> Iterator[None]:
        """Keep the reference policy on the device within the context; an offloaded one is moved there and back."""
        moved = self._reference if self.settings.offload_reference and not self.settings.lora.rank else None
        if moved is not None:
            moved.to(self.device)
        try:
            yield
        finally:
            if moved is not None:
                moved.to("cpu")

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the trained modules into evaluation mode within the context."""
        for trained in self.trained.values():
            trained.engine.eval()
        try:
            yield
        finally:
            for trained in self.trained.values():
                trained.engine.train()

    def score(self, batch: MicroBatch, chunks: int, *, train: bool) -> TokenScores:
        """The policy's scores `[n]`; after a call with `train`, call `policy.backward`."""
        return self._run(self.policy.engine if train else self.policy.module, batch, chunks)

    @torch.no_grad()
    def reference_logprobs(self, batch: MicroBatch, chunks: int) -> Tensor | None:
        """The reference policy's log-probabilities `[n]`, nats; None without one."""
        if self._reference is None:
            return None
        if not self.settings.lora.rank:
            return self._run(self._reference, batch, chunks).logprobs
        from learner.lora import adapters_off

        with adapters_off(self.model):
            return self._run(self._reference, batch, chunks).logprobs

    def values(self, batch: MicroBatch, *, train: bool) -> Tensor | None:
        """The critic's values `[n]`, in units of reward; None without one.

        Call this after the policy has scored the same batch: a value head reads the policy's hidden states from there.
        """
        if self.critic is None:
            return None
        critic = self.critic.engine if train else self.critic.module
        if self.settings.critic.kind == "head":
            return critic(self.policy.module.take_hidden())
        return critic(*(self.tensor(array) for array in (batch.token_ids, batch.boundaries, batch.positions)))

    def _run(self, scorer: nn.Module, batch: MicroBatch, chunks: int) -> TokenScores:
        ids, boundaries = self.tensor(batch.token_ids), self.tensor(batch.boundaries)
        positions, targets = self.tensor(batch.positions), self.tensor(batch.targets)
        return score(scorer, ids, boundaries, positions, targets, self.temperature, chunks)

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)
