"""The supervised update: a rank trains or measures its share of a step's demonstrations."""

from __future__ import annotations

import torch
from torch import Tensor

from learner.batching import MicroBatch, OptimizerStep, collate
from learner.losses.aggregation import StepTotals, aggregate
from learner.metrics import RankReport
from learner.networks import Networks
from learner.update import finish_step


def fine_tune_step(networks: Networks, step: OptimizerStep) -> RankReport:
    """Take one optimizer step on the mean negative log-likelihood of the sampled tokens; collective.

    If the loss or gradient is not finite, the parameters stay as they were and the report's `bad` gives the reason.
    """
    report = RankReport()
    losses: list[Tensor] = []
    report.lr = networks.policy.lr
    for place, samples in enumerate(step.micro_batches):
        batch = collate(samples)
        report.real_tokens += batch.real_tokens
        report.padded_tokens += batch.token_ids.size
        logprobs = networks.score(batch, step.head_chunks[place], train=True).logprobs
        losses.append(_share_of_nll(networks, batch, step, logprobs))
        if place < len(step.micro_batches) - 1:
            networks.policy.backward(losses[-1], last=False)
        else:
            report.bad = finish_step(networks.policy, "policy", losses, logprobs, step, report.grad_norms)
    report.sums["loss"] = float(torch.stack(losses).detach().sum())
    return report


@torch.no_grad()
def measure_nll(networks: Networks, step: OptimizerStep) -> float:
    """This rank's share of the same loss, without training; collective."""
    with networks.evaluating():
        shares = []
        for samples, chunks in zip(step.micro_batches, step.head_chunks, strict=True):
            batch = collate(samples)
            logprobs = networks.score(batch, chunks, train=False).logprobs
            shares.append(_share_of_nll(networks, batch, step, logprobs))
    return float(torch.stack(shares).sum())


def _share_of_nll(networks: Networks, batch: MicroBatch, step: OptimizerStep, logprobs: Tensor) -> Tensor:
    """A micro-batch's part of the step's mean over tokens, in nats."""
    sequence = torch.zeros_like(logprobs, dtype=torch.int64)  # any value will do: a mean over tokens ignores it
    totals = StepTotals(step.token_count, step.sequence_count)
    return aggregate(-logprobs, networks.tensor(batch.weights), sequence, totals)
