"""The call: a question for one candidate, and the place in a run that identifies it."""

from __future__ import annotations

from dataclasses import dataclass

# The task that Router-R1 gives its candidates, in our words: they see a sub-question and nothing else.
CANDIDATE_PROMPT = (
    "You are asked one part of a larger question. Answer it directly from what you know, in a sentence or two, "
    "with the fact that is asked for. If you are not sure, give your best answer and say that you are not sure."
)


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A question for one candidate.

    `step`, `episode`, `turn` and `index` are the call's place in a run. A call that is repeated at its place after a
    crash counts as the same call and is paid for once.
    """

    model: str  # name or alias of a card
    requested: str  # the name as the policy wrote it
    query: str
    question_id: str = ""
    max_tokens: int = 512  # the card's max_output_tokens is the ceiling
    seed: int | None = None
    step: int = 0  # number of the run's batch; 0 if there is none
    episode: str = ""  # unique in its run; empty for a call outside any episode
    turn: int = 0  # number of the turn in its episode
    index: int = 0  # number of the search in its turn
