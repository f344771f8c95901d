"""The update: a rank scores its share of a batch and takes the optimizer steps."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor

from learner.batching import MicroBatch, OptimizerStep, collate
from learner.deepspeed_engine import TrainedModule
from learner.losses.aggregation import StepTotals
from learner.losses.effective_sample import effective_share
from learner.losses.kl import kl_estimate
from learner.losses.policy_loss import LossTerms, TokenScores, TrainedTokens, policy_loss
from learner.losses.scores import SampleScores
from learner.losses.value_loss import ValueTerms, value_loss
from learner.metrics import BadStep, RankReport
from learner.networks import Networks
from learner.settings import LearnerSettings


@torch.no_grad()
def score_batch(
    networks: Networks, step: OptimizerStep, settings: LearnerSettings, kl_coef: float
) -> dict[int, SampleScores]:
    """Score a share of a batch before it is trained on; scores by `Sample.index`; collective."""
    scores: dict[int, SampleScores] = {}
    with networks.reference_at_hand(), networks.evaluating():
        for samples, chunks in zip(step.micro_batches, step.head_chunks, strict=True):
            batch = collate(samples)
            reference = networks.reference_logprobs(batch, chunks)
            old = networks.score(batch, chunks, train=False).logprobs
            values = networks.values(batch, train=False)
            penalties = torch.zeros_like(old)
            if reference is not None and settings.kl_in == "reward":
                penalties = kl_coef * kl_estimate(old, reference, settings.kl_estimator)
            begin = 0
            for sample in samples:
                own = slice(begin, begin := begin + sample.trained_tokens)
                scores[sample.index] = SampleScores(
                    logprobs=old[own].cpu().numpy(),
                    kl_penalties=penalties[own].cpu().numpy(),
                    values=values[own].cpu().numpy() if values is not None else None,
                    ref_logprobs=reference[own].cpu().numpy() if reference is not None else None,
                )
    return scores


def train_batch(
    networks: Networks, steps: list[OptimizerStep], settings: LearnerSettings, kl_coef: float, lr_share: float = 1.0
) -> RankReport:
    """Take the optimizer steps of a batch; `lr_share` is a factor on the policy's learning rate; collective.

    The first step with a loss or gradient that is not finite is dropped, and so are all later steps; the report's `bad`
    gives the reason. If the policy's loss is bad, neither network is updated. If only the critic's is, the policy keeps
    its update.
    """
    report = RankReport(kl_coef=kl_coef)
    networks.policy.lr_share = lr_share
    # A batch that was scored first already contains the reference policy's log-probabilities.
    with nullcontext() if settings.scores_first else networks.reference_at_hand():
        for number, step in enumerate(steps):
            report.bad = _optimizer_step(networks, step, settings, report, first=number == 0)
            if report.bad is not None:
                break
    return report


def _optimizer_step(
    networks: Networks, step: OptimizerStep, settings: LearnerSettings, report: RankReport, *, first: bool
) -> BadStep | None:
    policy, critic = networks.policy, networks.critic
    terms: list[LossTerms] = []
    values: list[ValueTerms] = []
    bad: BadStep | None = None
    report.lr = policy.lr
    for place, samples in enumerate(step.micro_batches):
        last = place == len(step.micro_batches) - 1
        batch = collate(samples)
        report.real_tokens += batch.real_tokens
        report.padded_tokens += batch.token_ids.size
        chunks = step.head_chunks[place]
        scores, of_policy = _policy_terms(networks, batch, step, chunks, settings, report.kl_coef)
        terms.append(of_policy)
        if last:
            report.effective_samples.append(_effective_share(terms, step))
            losses = [t.loss for t in terms]
            bad = finish_step(policy, "policy", losses, scores.logprobs, step, report.grad_norms)
            if bad is None:
                _add_policy_terms(terms, report, first=first)
        else:
            policy.backward(of_policy.loss, last=False)
        if critic is None:
            continue
        report.critic_lr = critic.lr
        value, of_critic = _value_terms(networks, batch, step, settings)
        values.append(of_critic)
        if last:
            losses = [v.loss for v in values]
            bad = finish_step(critic, "critic", losses, value, step, report.critic_grad_norms, bad=bad)
            if bad is None:
                _add_value_terms(values, report)
        else:
            critic.backward(of_critic.loss, last=False)
    return bad


def _policy_terms(
    networks: Networks, batch: MicroBatch, step: OptimizerStep, chunks: int, settings: LearnerSettings, kl_coef: float
) -> tuple[TokenScores, LossTerms]:
    # Decided by a setting and not by the batch, so that all ranks do the same: with adapters and ZeRO-3, running the
    # reference is collective.
    if not settings.scores_first:
        reference = networks.reference_logprobs(batch, chunks)
    else:
        reference = networks.tensor(batch.ref_logprobs) if batch.ref_logprobs is not None else None
    scores = networks.score(batch, chunks, train=True)
    # A batch without scores takes one optimizer step, so this is still the policy at the start of the batch.
    old = scores.logprobs.detach() if batch.old_logprobs is None else networks.tensor(batch.old_logprobs)
    boundaries, positions = networks.tensor(batch.boundaries), networks.tensor(batch.positions)
    tokens = TrainedTokens(
        sampler_logprobs=networks.tensor(batch.logprobs),
        advantages=networks.tensor(batch.advantages),
        weights=networks.tensor(batch.weights),
        sequence=torch.searchsorted(boundaries[1:], positions, right=True),
        old_logprobs=old,
        ref_logprobs=reference,
    )
    totals = StepTotals(step.token_count, step.sequence_count)
    return scores, policy_loss(scores, tokens, settings, totals, kl_coef=kl_coef)


def _effective_share(terms: list[LossTerms], step: OptimizerStep) -> float:
    """The effective sample size of a step as a share of its sequences, in (0, 1]; collective."""
    sums = torch.stack([torch.stack([t.sequence_weight, t.sequence_weight_squared]) for t in terms]).sum(0)
    torch.distributed.all_reduce(sums)
    return effective_share(sums, step.sequence_count)


def _value_terms(
    networks: Networks, batch: MicroBatch, step: OptimizerStep, settings: LearnerSettings
) -> tuple[Tensor, ValueTerms]:
    values = networks.values(batch, train=True)
    # With a critic every batch is scored first, so these are never None.
    assert values is not None
    assert batch.old_values is not None
    assert batch.returns is not None
    return values, value_loss(
        values,
        networks.tensor(batch.old_values),
        networks.tensor(batch.returns),
        networks.tensor(batch.weights),
        token_count=step.token_count,
        clip=settings.critic.clip,
    )


def _bad_loss(name: str, losses: list[Tensor], step: OptimizerStep, steps: int) -> BadStep | None:
    """A `BadStep` with this rank's suspects if some micro-batch's loss is not finite on any rank, else None.

    Collective.
    """
    bad = ~torch.isfinite(torch.stack([loss.detach() for loss in losses]))
    anywhere = bad.any().to(torch.int32)
    torch.distributed.all_reduce(anywhere, op=torch.distributed.ReduceOp.MAX)
    if not anywhere.item():
        return None
    suspects = tuple(s.label for i in bad.nonzero().flatten().tolist() for s in step.micro_batches[i])
    return BadStep(f"loss of the {name} is not finite at optimizer step {steps}", suspects)


def finish_step(
    trained: TrainedModule,
    name: str,
    losses: list[Tensor],
    scores: Tensor,
    step: OptimizerStep,
    norms: list[float],
    *,
    bad: BadStep | None = None,
) -> BadStep | None:
    """Run the backward pass of a step's last micro-batch and take the step, unless something is bad; collective.

    Args:
        losses: of all micro-batches; the last one has not had its backward pass yet.
        scores: the tensor from which the last loss was computed.
        norms: gets the gradient norm of a step that was taken.
        bad: a problem found before, such as a bad loss of the policy in the critic's step.

    Returns the problem, if there is one; then the step was not taken and its gradients were dropped.
    """
    bad = bad or _bad_loss(name, losses, step, trained.steps)
    if bad is None:
        trained.backward(losses[-1], last=True)
    else:
        trained.drop(scores)
    norm = trained.step()
    if bad is not None:
        return bad
    if not math.isfinite(norm):
        labels = tuple(s.label for samples in step.micro_batches for s in samples)
        return BadStep(f"gradient of the {name} is not finite at optimizer step {trained.steps}", labels)
    norms.append(norm)
    return None


def _add_policy_terms(terms: list[LossTerms], report: RankReport, *, first: bool) -> None:
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


def _add_value_terms(values: list[ValueTerms], report: RankReport) -> None:
    report.sums["value_loss"] += float(torch.stack([v.loss.detach() for v in values]).sum())
    report.sums["value_clip_fraction"] += float(torch.stack([v.clipped for v in values]).sum())
