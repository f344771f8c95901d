"""Methods: the ways to answer questions in a run's summary or in an evaluation, each with one name and definition.

All summaries, tables, reports, metrics and files take names and definitions from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

POLICY, BEFORE, AFTER = "policy", "before", "after"
RANDOM = "random"
MOST_COMPETENT, CHEAPEST_RIGHT = "most_competent", "cheapest_right"
BEST_CONSTANT_TRAINING = "best_constant_training"
BEST_CONSTANT_HINDSIGHT = "best_constant_hindsight"
BEST_CONSTANT_CARDS = "best_constant_cards"
ALONE = "alone"  # stands for one row for each candidate, named `alone:CARD`
UNSEEN = "_unseen"  # ends the key of a result with candidates that were not in the training


@dataclass(frozen=True, slots=True)
class Method:
    """A way to answer questions."""

    key: str  # its name in files, tables and options
    name: str  # its name in a sentence
    meaning: str  # how it answers: the rest of a sentence that begins with the name

    @property
    def line(self) -> str:
        """Name and definition, for a footnote."""
        return f"{self.key} ({self.name}): {self.meaning}"


_ALL = (
    Method(POLICY, "policy", "chooses candidates by the question and the replies so far, and writes the answer"),
    Method(BEFORE, "policy before training", "plays the checkpoint that training began with"),
    Method(AFTER, "policy after training", "plays the checkpoint that training ended with"),
    Method(
        MOST_COMPETENT,
        "most competent candidate",
        "asks for each hop the candidate with the highest competence in its field, by the embedded world's rules",
    ),
    Method(
        BEST_CONSTANT_HINDSIGHT,
        "best constant in hindsight",
        "always asks the one candidate who is right most often on these very questions",
    ),
    Method(
        BEST_CONSTANT_TRAINING,
        "best constant in training",
        "always asks the one candidate who is right most often on the questions that baselines learn from",
    ),
    Method(
        BEST_CONSTANT_CARDS,
        "best constant by the cards",
        "always asks the one candidate whose card states the highest accuracy on these data sets",
    ),
    Method(
        CHEAPEST_RIGHT,
        "cheapest right candidate",
        "knows the answers and asks the cheapest of the candidates who answer best, in the embedded world for each hop",
    ),
    Method(RANDOM, "random routing", "asks a random candidate, in the embedded world a new one for each hop"),
    Method(ALONE, "one candidate alone", "always asks the candidate that the row names"),
    Method("largest", "largest candidate", "always asks the candidate with the most parameters"),
    Method(
        "cheapest",
        "cheapest candidate",
        "always asks the candidate with the lowest mean price on the questions that baselines learn from",
    ),
    Method(
        "best_utility",
        "best utility in training",
        "always asks the candidate with the highest mean utility (correctness minus λ times price) on the questions "
        "that baselines learn from",
    ),
    Method(
        "cascade", "cascade", "asks candidates from cheap to expensive until a learnt scorer trusts a reply (FrugalGPT)"
    ),
    Method("knn", "nearest neighbours", "asks the candidate who did best on the most similar training questions"),
    Method("mlp", "perceptron", "asks the candidate who answers best by the estimate of a multi-layer perceptron"),
    Method(
        "matrix_factorisation",
        "matrix factorisation",
        "asks the candidate who answers best by the product of the question's and the candidate's learnt vectors",
    ),
    Method("contrastive", "contrastive router", "asks the candidate whose learnt vector is nearest to the question's"),
    Method("ppo", "PPO router", "asks the candidate that a small policy, trained by PPO on single choices, prefers"),
    Method(
        "direct",
        "direct answer",
        "the model before training, or the one at the URL, answers at once and asks no candidate",
    ),
    Method(
        "cot",
        "chain of thought",
        "the model before training, or the one at the URL, reasons step by step and asks no candidate",
    ),
    Method(
        "prompt_only",
        "routing by the prompt",
        "the model before training, or the one at the URL, routes by the prompt's instructions",
    ),
)
METHODS = {method.key: method for method in _ALL}
OF_RUN = (BEFORE, AFTER, MOST_COMPETENT, BEST_CONSTANT_HINDSIGHT, RANDOM)  # the results of a run's summary, in order

_ROW = re.compile(r"(\w+?)(?:_unseen)?(?:$|:|, | @ | \()")  # `alone:CARD`, `knn, λ=0.1`, `policy (MODEL)`, `x @ POOL`


def method_of(row: str) -> Method | None:
    """The method of a row, a result or a frontier's name, without its settings; None for an unknown name."""
    found = _ROW.match(row)
    return METHODS.get(found[1]) if found else None


def methods_of(rows: Iterable[str]) -> list[Method]:
    """The methods of rows, each once, in the order of the rows."""
    return list(dict.fromkeys(method for row in rows if (method := method_of(row)) is not None))


def definitions(rows: Iterable[str]) -> list[str]:
    """A defining line for each method of these rows."""
    return [method.line for method in methods_of(rows)]


def result_name(key: str) -> str:
    """The name of a summary's result in words, such as `most competent candidate, unseen`; unknown keys stay."""
    method, unseen = method_of(key), ", unseen" if key.endswith(UNSEEN) else ""
    return (method.name if method else key.removesuffix(UNSEEN).replace("_", " ")) + unseen
