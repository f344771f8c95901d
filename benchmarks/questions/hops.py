"""Hop counts: how many facts a question combines, as far as its data set states this."""

from __future__ import annotations

import re

from actors.questions import Question

# Natural Questions and TriviaQA ask for one fact, PopQA for the object of one triple. HotpotQA's questions were written
# about two paragraphs, and Bamboogle's combine two facts. Most questions of 2WikiMultihopQA chain or compare two facts.
# Its bridge-comparison questions combine four, but only a type field marks them, which `Question` does not have; so
# they count as two.
_BY_SET = {"nq": 1, "triviaqa": 1, "popqa": 1, "hotpotqa": 2, "2wikimultihopqa": 2, "bamboogle": 2}

# MuSiQue's own ids begin with the number: 2hop__, 3hop1__, 4hop2__. A collection may put a prefix before them.
_IN_ID = re.compile(r"(?:^|[^0-9a-z])([2-4])hop\d*__")
_IN_WORLD = re.compile(r"world-(\d)hop")  # names of the embedded world's data sets


def hop_count(question: Question) -> int | None:
    """The number of facts that an answer needs; None if nothing states it, such as MuSiQue with other ids."""
    if found := _IN_WORLD.fullmatch(question.dataset):
        return int(found[1])
    if question.dataset == "musique" and (found := _IN_ID.search(question.id)):
        return int(found[1])
    return _BY_SET.get(question.dataset)
