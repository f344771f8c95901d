"""Hop counts: how many facts a question chains, as far as its data set states it."""

from __future__ import annotations

import re

from actors.questions import Question

# Natural Questions and TriviaQA ask for one fact, PopQA for the object of one triple. HotpotQA was written over two
# paragraphs, and Bamboogle composes two facts. Most of 2WikiMultihopQA chains or compares two; its bridge-comparisons
# do both, over four, and are told apart by a type that questions here don't carry, so that they count as two.
_BY_SET = {"nq": 1, "triviaqa": 1, "popqa": 1, "hotpotqa": 2, "2wikimultihopqa": 2, "bamboogle": 2}

# MuSiQue's own ids begin with the number: 2hop__, 3hop1__, 4hop2__; ids of a collection may stand before it.
_IN_ID = re.compile(r"(?:^|[^0-9a-z])([2-4])hop\d*__")
_IN_WORLD = re.compile(r"world-(\d)hop")  # the embedded world's data sets are named so


def hop_count(question: Question) -> int | None:
    """Facts to be chained for an answer; None where nothing states it, as in MuSiQue under ids not its own."""
    if found := _IN_WORLD.fullmatch(question.dataset):
        return int(found[1])
    if question.dataset == "musique" and (found := _IN_ID.search(question.id)):
        return int(found[1])
    return _BY_SET.get(question.dataset)
