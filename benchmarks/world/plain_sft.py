"""Supervised fine-tuning in one process, without Ray or DeepSpeed, for the cold start."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from learner.sft import SftExample

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlainSettings:
    """Settings of the fine-tuning."""

    steps: int
    batch_size: int = 48
    lr: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    log_every: int = 50


def collate(examples: Sequence[SftExample], pad: int) -> dict[str, torch.Tensor]:
    """Pad on the right to the longest example; labels are −100 at tokens without a loss. All tensors are `[B, T]`."""
    longest = max(len(example.token_ids) for example in examples)
    ids = torch.full((len(examples), longest), pad)
    labels = torch.full((len(examples), longest), -100)
    mask = torch.zeros((len(examples), longest), dtype=torch.long)
    for row, example in enumerate(examples):
        length = len(example.token_ids)
        tokens = torch.tensor(example.token_ids)
        ids[row, :length] = tokens
        mask[row, :length] = 1
        labels[row, :length] = torch.where(torch.tensor(example.sampled), tokens, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def fine_tune(
    model: PreTrainedModel, batches: Iterator[Sequence[SftExample]], settings: PlainSettings, pad: int
) -> list[float]:
    """Train `model` in place with AdamW, linear warm-up and cosine decay to a tenth of the learning rate.

    Returns the loss of every step.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    kept = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": kept, "weight_decay": 0.0}],
        lr=settings.lr,
        betas=(0.9, 0.98),
    )
    model.train()
    losses: list[float] = []
    started = time.monotonic()
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * _schedule(step, settings)
        batch = collate(next(batches), pad)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        learnt = batch["labels"][:, 1:] != -100
        loss = functional.cross_entropy(logits[learnt], batch["labels"][:, 1:][learnt])
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of step {step} is {loss.item()}; lower lr (now {settings.lr})")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % settings.log_every == 0:
            recent = sum(losses[-settings.log_every :]) / settings.log_every
            rate = (step + 1) / (time.monotonic() - started)
            logger.info("step %d/%d  loss %.4f  %.2f steps/s", step + 1, settings.steps, recent, rate)
    return losses


def _schedule(step: int, settings: PlainSettings) -> float:
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))
