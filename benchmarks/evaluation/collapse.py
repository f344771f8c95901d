"""The collapse watch: whether a policy still routes, and whether it is better than always asking one model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.pool.cards import ModelCard
from benchmarks.evaluation.means import Evaluation
from benchmarks.evaluation.methods import BEST_CONSTANT_CARDS, BEST_CONSTANT_HINDSIGHT, METHODS

DOMINANT_SHARE = 0.95  # a policy that sends a larger share of its calls to one model has stopped choosing
_CHEAPER = 0.95  # a price above this share of the constant policy's is too small a saving to be a reason to route


@dataclass(frozen=True, slots=True)
class Constant:
    """The best constant policy: always asking the one model that is right most often; `method` says on what."""

    model: str
    em: float  # share of the questions that it answers rightly
    questions: int  # number of questions behind this share; 0 if unknown
    usd_per_1k_questions: float | None = None  # None if unknown
    method: str = BEST_CONSTANT_HINDSIGHT


def measured_constant(evaluation: Evaluation) -> Constant:
    """The constant policy with an evaluation's results.

    Raises:
        ValueError: the evaluation asked several models, or none.
    """
    if len(evaluation.call_share) != 1:
        raise ValueError(f"a constant policy asks one model; this evaluation asked {sorted(evaluation.call_share)}")
    [model] = evaluation.call_share
    return Constant(model, evaluation.em, evaluation.questions, evaluation.cost_usd_per_1k_questions)


def constant_of_cards(cards: Sequence[ModelCard], questions: Mapping[str, int]) -> Constant | None:
    """The best constant policy by the accuracies on the cards; None if no card states one for every data set.

    Its price is unknown, because cards don't state the length of replies.

    Args:
        questions: number of questions of each data set, which weights the average of a card's accuracies.
    """
    total = sum(questions.values())
    known = [card for card in cards if total and all(name in card.domains for name in questions)]
    if not known:
        return None
    scores = {card.name: sum(card.domains[n] * count for n, count in questions.items()) / total for card in known}
    best = max(known, key=lambda card: (scores[card.name], -card.price_out_usd_per_mtok))
    return Constant(best.name, scores[best.name], best.measured_questions, method=BEST_CONSTANT_CARDS)


def call_entropy(call_share: Mapping[str, float]) -> float:
    """Shannon entropy of call shares in nats: 0 for one model, log n for n models with equal shares, 0 without calls.

    Its exponential is the effective number of models: so many models with equal shares have the same entropy.
    """
    total = math.fsum(call_share.values())
    shares = [share / total for share in call_share.values() if share > 0]
    return max(0.0, -math.fsum(share * math.log(share) for share in shares))


def collapse_alarm(
    policy: Evaluation, constant: Constant | None = None, *, candidates: int | None = None
) -> str | None:
    """One or more sentences that say that the policy has stopped routing; None if it has not.

    A policy has stopped routing if more than `DOMINANT_SHARE` of its calls go to one model, if it makes no calls, or if
    it is no better than the best constant policy: neither right more often by more than one standard error, nor right
    as often (within one standard error) at a clearly lower price. The standard error is that of the difference of
    independent shares. Both policies answer the same questions, so the true error is smaller, and the alarm tends to
    come too early, not too late.

    Args:
        constant: the best constant policy; if None, only the calls are judged.
        candidates: number of candidates to choose from, if known; with one candidate there is never an alarm.
    """
    if candidates == 1:
        return None
    said = [_dominance(policy.call_share)]
    if constant is not None and not math.isnan(policy.em):
        said.append(_no_better(policy, constant))
    return " ".join(filter(None, said)) or None


def standard_error(policy: Evaluation, constant: Constant) -> float:
    """Standard error of the difference of two exact-match shares, √(p(1 − p)/n + q(1 − q)/m).

    The constant policy's term is left out if its number of questions is unknown.
    """
    variance = _variance(policy.em, policy.questions)
    return math.sqrt(variance + (_variance(constant.em, constant.questions) if constant.questions else 0.0))


def _variance(share: float, questions: int) -> float:
    return share * (1 - share) / questions


def _dominance(call_share: Mapping[str, float]) -> str:
    if not call_share:
        return "No candidate is asked at all: the policy answers by itself."
    model, share = max(call_share.items(), key=lambda item: item[1])
    return f"{share:.1%} of all calls go to {model}." if share > DOMINANT_SHARE else ""


def _no_better(policy: Evaluation, constant: Constant) -> str:
    error, gain = standard_error(policy, constant), policy.em - constant.em
    ours, theirs = policy.cost_usd_per_1k_questions, constant.usd_per_1k_questions
    cheaper = theirs is not None and ours < _CHEAPER * theirs
    if gain > error or (cheaper and gain >= -error):
        return ""
    method = METHODS[constant.method]
    prices = f"; it costs ${ours:.3g} per 1,000 questions" + (f" against ${theirs:.3g}" if theirs is not None else "")
    return (
        f"The policy is no better than always asking {constant.model}: exact match {policy.em:.3f} against "
        f"{constant.em:.3f} (the {method.name}, which {method.meaning}; standard error of the difference "
        f"{error:.3f}){prices}."
    )
