"""The collapse watch: whether a policy still routes, or is no better than asking one model always."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.pool.cards import ModelCard
from benchmarks.evaluation.means import Evaluation
from benchmarks.evaluation.methods import BEST_CONSTANT_CARDS, BEST_CONSTANT_HINDSIGHT, METHODS

DOMINANT_SHARE = 0.95  # of the calls: a policy with more than this at one model has stopped to choose
_CHEAPER = 0.95  # of the other's price: less of a saving is no reason to route


@dataclass(frozen=True, slots=True)
class Constant:
    """The best constant policy: the one model that, asked always, is right most often; `method` says on what."""

    model: str
    em: float  # share of the questions that it answers rightly
    questions: int  # that its score was measured with; 0 where that is not known
    usd_per_1k_questions: float | None = None  # None where it is not known
    method: str = BEST_CONSTANT_HINDSIGHT


def measured_constant(evaluation: Evaluation) -> Constant:
    """The constant policy that an evaluation is of.

    Raises:
        ValueError: the evaluation is of more models than one, or of none.
    """
    if len(evaluation.call_share) != 1:
        raise ValueError(f"a constant policy asks one model; this evaluation asked {sorted(evaluation.call_share)}")
    [model] = evaluation.call_share
    return Constant(model, evaluation.em, evaluation.questions, evaluation.cost_usd_per_1k_questions)


def constant_of_cards(cards: Sequence[ModelCard], questions: Mapping[str, int]) -> Constant | None:
    """The best constant policy by the accuracy that cards state; None where no card states it of every data set.

    Its price is not known: cards do not say how long replies are.

    Args:
        questions: how many there are of each data set; a card's accuracies are averaged by them.
    """
    total = sum(questions.values())
    known = [card for card in cards if total and all(name in card.domains for name in questions)]
    if not known:
        return None
    scores = {card.name: sum(card.domains[n] * count for n, count in questions.items()) / total for card in known}
    best = max(known, key=lambda card: (scores[card.name], -card.price_out_usd_per_mtok))
    return Constant(best.name, scores[best.name], best.measured_questions, method=BEST_CONSTANT_CARDS)


def call_entropy(call_share: Mapping[str, float]) -> float:
    """Shannon entropy of call shares in nats: 0 for one model, log n for n models asked alike, 0 without calls.

    Its exponential is the number of models that, asked alike, would be as varied.
    """
    total = math.fsum(call_share.values())
    shares = [share / total for share in call_share.values() if share > 0]
    return max(0.0, -math.fsum(share * math.log(share) for share in shares))


def collapse_alarm(
    policy: Evaluation, constant: Constant | None = None, *, candidates: int | None = None
) -> str | None:
    """What a policy has come to if it has ceased to route, in a sentence or more; None if all is well.

    It has where more than `DOMINANT_SHARE` of its calls go to one model or none are made, and where it is no better
    than the best constant policy: not right more often by more than one standard error, nor as often at a lower
    price. The error is that of a difference of independent shares; on the same questions it is smaller, so that the
    alarm comes rather early than late.

    Args:
        constant: the best constant policy; without one only the calls are judged.
        candidates: how many there are to choose from, if known; with a single one there is nothing to tell.
    """
    if candidates == 1:
        return None
    said = [_dominance(policy.call_share)]
    if constant is not None and not math.isnan(policy.em):
        said.append(_no_better(policy, constant))
    return " ".join(filter(None, said)) or None


def standard_error(policy: Evaluation, constant: Constant) -> float:
    """Standard error of the difference of their exact matches, √(p(1 − p)/n + q(1 − q)/m); the constant policy's part
    is left out where its number of questions is not known."""
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
