"""The bare loop: GRPO's update in plain PyTorch, what the learner's update is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from actors.episodes.trajectory import Trajectory
from learner.attention import PACKED, packed_inputs
from learner.batching import MicroBatch, collate, make_samples, pack
from learner.losses.credit import assign_credit
from learner.settings import LearnerSettings


class BareLoop:
    """Forward, loss, backward, clip, step over micro-batches packed beforehand; no checks, no metrics."""

    def __init__(self, checkpoint: Path, trajectories: Sequence[Trajectory], settings: LearnerSettings) -> None:
        torch.set_num_threads(settings.threads)
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation=PACKED).train()
        adamw = settings.optimizer
        self.optimizer = torch.optim.AdamW(self.model.parameters(), adamw.lr, eps=adamw.eps, weight_decay=0.0)
        self.max_norm = settings.max_grad_norm
        samples = make_samples(trajectories, assign_credit(trajectories, settings).values)
        self.batches = [collate(batch) for batch in pack(samples, settings.micro_batch_tokens)]
        self.trained = sum(s.trained_tokens for s in samples)

    def update(self) -> None:
        """One optimizer step on all micro-batches."""
        for batch in self.batches:
            self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss(self, batch: MicroBatch) -> torch.Tensor:
        """PPO's clipped surrogate at a clip of 0.2, summed over the batch, over all trained tokens."""
        inputs = packed_inputs(torch.from_numpy(batch.token_ids), torch.from_numpy(batch.boundaries))
        hidden = self.model.model(**inputs).last_hidden_state[0, torch.from_numpy(batch.positions)]
        logprobs = torch.log_softmax(self.model.lm_head(hidden), -1)
        chosen = logprobs.gather(-1, torch.from_numpy(batch.targets)[:, None])[:, 0]
        ratio = (chosen - torch.from_numpy(batch.logprobs)).exp()
        advantages = torch.from_numpy(batch.advantages)
        return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).sum() / self.trained

    @torch.no_grad()
    def logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """Log-probabilities (nats) of all tokens but the first."""
        ids = torch.tensor(token_ids)
        hidden = self.model.model(**packed_inputs(ids, torch.tensor([0, len(ids)], dtype=torch.int32)))
        logprobs = torch.log_softmax(self.model.lm_head(hidden.last_hidden_state[0, :-1]), -1)
        return logprobs.gather(-1, ids[1:, None])[:, 0].tolist()
