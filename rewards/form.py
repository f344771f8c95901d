"""The format reward: 0 for an episode that keeps to the protocol, −1 for one that does not (Router-R1, section 3.2)."""

from __future__ import annotations

import string

from rewards.grammar import CLOSE, OPEN, parse_route
from rewards.transcript import BlockKind, CallStatus, Transcript, Turn

_THINK, _SEARCH, _INFORMATION, _ANSWER = BlockKind  # cached: Enum attribute access is slow in these loops
_INVALID_ROUTE = CallStatus.INVALID_ROUTE
_NO_THOUGHT = ".…" + string.whitespace


def violations(transcript: Transcript) -> tuple[str, ...]:
    """Names of the rules that the policy broke, each once, in order of appearance.

    The grammar's faults `nested_tag`, `stray_close` and `unclosed`, and these rules:
    `no_think` (a turn does not begin with a think block), `empty_think`, `forged_information` (the policy wrote an
    information block itself), `bad_route` (a search that is not `name: query`), `unknown_model`, `many_actions` (more
    than one search or answer in a turn), `no_answer` (the episode has no closed answer), `empty_answer`.

    Text between blocks (`text_outside`) breaks no rule. Router-R1's published code checks only the tags, and such text
    is never read as an action. With a rule, an instruction-tuned policy that begins with "Sure:" would earn nothing
    until it had unlearnt that.
    """
    found: dict[str, None] = {}
    for turn in transcript.turns:
        if turn.faults:
            found |= dict.fromkeys(turn.faults)
        if not turn.blocks or turn.blocks[0].kind is not _THINK:
            found["no_think"] = None
        actions = 0
        for block in turn.blocks:
            if block.kind is _THINK:
                if not block.text.strip(_NO_THOUGHT):
                    found["empty_think"] = None
            elif block.kind is _INFORMATION:
                found["forged_information"] = None
            else:
                actions += 1
        if actions > 1 and actions > len(turn.calls):  # several searches are allowed if every one became a call
            found["many_actions"] = None
        if actions and (fault := _route_violation(turn)):
            found[fault] = None
    answer = transcript.answer
    if not answer:
        found["no_answer" if answer is None else "empty_answer"] = None
    found.pop("text_outside", None)
    return tuple(found)


def paper_violations(transcript: Transcript) -> tuple[str, ...]:
    """Names of the rules of Router-R1's section 3.2 and appendix A that the policy broke, each once.

    Blocks are closed and not nested (`nested_tag`, `stray_close`, `unclosed`). A think block comes first and a single
    answer last (`think_not_first`, `answer_not_last`, `no_think`, `empty_think`, `no_answer`, `many_answers`). A search
    is `name: query` (`bad_route`), names a model (`unknown_model`), and gets an information block of its own
    (`unpaired_search`), which the policy must not write itself (`forged_information`).
    """
    turns = transcript.turns
    found: dict[str, None] = {}
    thoughts = answers = 0
    for turn in turns:
        if turn.faults:
            found |= dict.fromkeys(turn.faults)
        searches = 0
        for block in turn.blocks:
            if block.kind is _THINK:
                thoughts += 1
                if not block.text:
                    found["empty_think"] = None
            elif block.kind is _SEARCH:
                searches += 1
            elif block.kind is _ANSWER:
                answers += block.closed
            else:
                found["forged_information"] = None
        if searches != len(turn.calls) or searches > 1:
            found["unpaired_search"] = None
        if searches and (fault := _route_violation(turn)):
            found[fault] = None
    if not turns or not turns[0].text.lstrip().startswith(OPEN[_THINK]):
        found["think_not_first"] = None
    if not turns or not turns[-1].text.rstrip().endswith(CLOSE[_ANSWER]):
        found["answer_not_last"] = None
    if not thoughts:
        found["no_think"] = None
    if answers != 1:
        found["many_answers" if answers else "no_answer"] = None
    found.pop("text_outside", None)
    return tuple(found)


def _route_violation(turn: Turn) -> str | None:
    """The name of the rule that a search of the turn breaks, or None."""
    for block in turn.blocks:
        if block.kind is _SEARCH and parse_route(block.text) is None:
            return "bad_route"
    for call in turn.calls:
        if call.status is _INVALID_ROUTE:
            return "unknown_model"
    return None
