"""Answers with recorded replies of real models: by question id, else by the nearest recorded question."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.errors import ExplainedError
from actors.json_lines import json_objects
from actors.pool.cards import ModelCard, check_base_url, load_cards
from benchmarks.world.chat_format import Answer, UnknownModel

RECORDED_CARDS = Path(__file__).with_name("recorded_cards.yaml")
NOTHING_RECORDED = "I do not know."

_K1, _B = 1.2, 0.75  # the usual constants of BM25 (Robertson and Zaragoza, 2009)
_LATENCY_SIGMA = 0.99  # of the log: the 99th percentile is ten times the median, as measured for hosted LLMs
_DEFAULT_LATENCY_S = 1.0
_WORD = re.compile(r"\w+")
_PIECE = re.compile(r"\w{1,6}|[^\w\s]")


class RepliesError(ExplainedError, ValueError):
    """A file of replies that can't be used; the message names file, line, field and remedy."""


@dataclass(slots=True)
class _Recorded:
    """A question and what each model replied to it."""

    id: str
    text: str
    dataset: str
    replies: dict[str, str] = field(default_factory=dict)
    correct: dict[str, bool] = field(default_factory=dict)


class RecordedAnswerer:
    """Answers as the models of a replies file did.

    The id decides where it is known. Otherwise the recorded question with the highest BM25 score against the
    query is taken, of those that the model replied to; where no word is shared, it says that it does not know.
    """

    def __init__(self, replies: Path) -> None:
        """Read a JSONL file of `{id, question, model, response, correct}` rows, one per question and model.

        Raises:
            RepliesError: the file is missing or empty, or a line is malformed.
        """
        self._questions = _load(replies)
        self._by_id = {question.id: question for question in self._questions}
        self.models = tuple(dict.fromkeys(model for q in self._questions for model in q.replies))
        self._model_of = {model.casefold(): model for model in self.models}
        self._replied = {
            model: np.array([model in question.replies for question in self._questions]) for model in self.models
        }
        self._latency_s = {card.model: card.latency_s for card in load_cards(RECORDED_CARDS)}
        self._postings = _index([question.text for question in self._questions])

    def answer(self, model: str, query: str, question_id: str | None) -> Answer:
        """The recorded reply of `model`; under 5 ms over 2,000 questions. Same arguments, same answer.

        Raises:
            UnknownModel: the file has no replies of the model.
        """
        name = self._model_of.get(model.strip().casefold())
        if name is None:
            raise UnknownModel(model)
        question = self._by_id.get(question_id or "")
        if question is None or name not in question.replies:
            question = self._nearest(query, name)
        text = NOTHING_RECORDED if question is None else question.replies[name]
        return Answer(
            text=text,
            completion_tokens=count_tokens(text),
            prompt_tokens=count_tokens(query),
            latency_s=self._latency(name, query if question is None else question.id),
        )

    def _nearest(self, query: str, model: str) -> _Recorded | None:
        scores = np.zeros(len(self._questions))
        for word in set(_words(query)):
            if word in self._postings:
                rows, weights = self._postings[word]
                scores[rows] += weights
        scores[~self._replied[model]] = 0.0
        best = int(scores.argmax())
        return self._questions[best] if scores[best] > 0 else None

    def _latency(self, model: str, question: str) -> float:
        """Seconds, lognormal around the model's median and fixed per model and question."""
        digest = hashlib.blake2b(f"{model}\n{question}".encode(), digest_size=8).digest()
        share = (int.from_bytes(digest) + 0.5) / 2**64
        median = self._latency_s.get(model, _DEFAULT_LATENCY_S)
        return median * math.exp(_LATENCY_SIGMA * NormalDist().inv_cdf(min(max(share, 1e-4), 1 - 1e-4)))


def recorded_cards(replies: Path, base_url: str | None = None) -> list[ModelCard]:
    """The cards of the models in a replies file, with their measured share of right replies per dataset.

    Prices and latencies come from `recorded_cards.yaml` and are assumptions; the replies carry none.

    Raises:
        RepliesError: the file can't be used, or has a model without a card.
        ValueError: `base_url` is no usable URL.
    """
    questions = _load(replies)
    marks: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for question in questions:
        for model, correct in question.correct.items():
            marks[model][question.dataset or "all"].append(correct)
    cards = {card.model: card for card in load_cards(RECORDED_CARDS)}
    missing = sorted({model for question in questions for model in question.replies} - set(cards))
    if missing:
        raise RepliesError(f"{replies}: no card for {', '.join(missing)}; add one to {RECORDED_CARDS.name}")
    return [
        card.model_copy(
            update={
                "base_url": check_base_url(base_url or card.base_url),
                "domains": {name: round(sum(m) / len(m), 4) for name, m in sorted(marks[model].items())},
            }
        )
        for model, card in cards.items()
        if model in marks
    ]


def count_tokens(text: str) -> int:
    """Tokens of a text, estimated as word pieces of up to six characters and single punctuation; at least 1."""
    return max(1, len(_PIECE.findall(text)))


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file of replies, each with where it stands.

    Raises:
        RepliesError: the file is missing, or a line is no JSON object or not UTF-8.
    """
    if not path.is_file():
        raise RepliesError(f"{path}: no such file; give a JSONL file with id, question, model, response, correct")
    yield from json_objects(path, RepliesError)


def check_fields(row: dict[str, Any], where: str, **kinds: type) -> None:
    """Check that fields are there and of these types.

    Raises:
        RepliesError: one is not.
    """
    for name, kind in kinds.items():
        if not isinstance(row.get(name), kind):
            raise RepliesError(f"{where}: field {name!r} must be a {kind.__name__}, got {row.get(name)!r}")


def _load(path: Path) -> list[_Recorded]:
    questions: dict[str, _Recorded] = {}
    for where, row in read_rows(path):
        check_fields(row, where, id=str, question=str, model=str, response=str, correct=bool)
        dataset = str(row.get("dataset", ""))
        question = questions.setdefault(row["id"], _Recorded(row["id"], row["question"], dataset))
        question.replies[row["model"]] = row["response"]
        question.correct[row["model"]] = row["correct"]
    if not questions:
        raise RepliesError(f"{path}: holds no replies")
    return list(questions.values())


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _index(texts: list[str]) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Inverted index: by word, the rows that hold it and the BM25 weight that it gives each."""
    counts = [Counter(_words(text)) for text in texts]
    lengths = np.array([sum(count.values()) for count in counts], dtype=np.float64)
    norms = _K1 * (1 - _B + _B * lengths / max(1.0, float(lengths.mean())))
    rows: dict[str, list[int]] = defaultdict(list)
    for row, count in enumerate(counts):
        for word in count:
            rows[word].append(row)
    index = {}
    for word, holders in rows.items():
        idf = math.log(1 + (len(texts) - len(holders) + 0.5) / (len(holders) + 0.5))
        at = np.array(holders)
        times = np.array([counts[row][word] for row in holders], dtype=np.float64)
        index[word] = (at, idf * times * (_K1 + 1) / (times + norms[at]))
    return index
