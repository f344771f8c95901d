"""The outcome reward: exact match and token F1 against accepted answers, as SQuAD defines them.

Source: Rajpurkar et al. 2016 (arXiv 1606.05250), evaluation script v1.1. Router-R1 uses the same (section 3.2).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLOSED_ANSWERS = frozenset({"yes", "no", "noanswer"})


def normalise_answer(text: str) -> str:
    """Lower-case, drop ASCII punctuation and articles, collapse white space; in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1.0 where the prediction equals any accepted answer after normalisation, else 0.0."""
    return outcomes(prediction, golds)[0]


def token_f1(prediction: str, golds: Sequence[str]) -> float:
    """Best F1 over bags of tokens; 0.0 where one side is a closed answer (yes, no, noanswer) and the other differs."""
    return outcomes(prediction, golds)[1]


def outcomes(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """Exact match and token F1, both in [0, 1]; normalises each text only once."""
    ours = normalise_answer(prediction)
    theirs = _normalised(tuple(golds))
    return float(ours in theirs), max((_f1(ours, gold) for gold in theirs), default=0.0)


@lru_cache(maxsize=1024)
def _normalised(golds: tuple[str, ...]) -> tuple[str, ...]:
    """Cached, because all episodes of a question are compared with the same answers."""
    return tuple(map(normalise_answer, golds))


def _f1(prediction: str, gold: str) -> float:
    if prediction == gold:
        return 1.0 if gold else 0.0
    if prediction in _CLOSED_ANSWERS or gold in _CLOSED_ANSWERS:
        return 0.0
    ours, theirs = prediction.split(), gold.split()
    if set(ours).isdisjoint(theirs):
        return 0.0
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))
