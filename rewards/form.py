"""The format reward: 0 where the policy kept to the protocol, −1 where it did not (Router-R1, section 3.2)."""

from __future__ import annotations

from rewards.grammar import parse_route
from rewards.transcript import BlockKind, CallStatus, Transcript, Turn


def violations(transcript: Transcript) -> tuple[str, ...]:
    """Names of the rules that the policy broke, each once, in order of appearance.

    Of the grammar's faults `nested_tag`, `stray_close` and `unclosed`; and:
    `no_think` (a turn's first block is no thought), `empty_think`, `forged_information` (it wrote a reply
    itself), `bad_route` (a search that is not `name: query`), `unknown_model`, `many_actions` (more than one
    search or answer in a turn), `no_answer` (the episode has no closed answer), `empty_answer`.

    Text between blocks (`text_outside`) breaks no rule: Router-R1's published code checks the tags alone, nobody
    reads such text as an action, and an instruction-tuned policy that begins with "Sure:" would have to unlearn
    it before it is rewarded for anything.
    """
    found: dict[str, None] = {}
    for turn in transcript.turns:
        found |= dict.fromkeys(_turn_violations(turn))
    if transcript.answer is None:
        found["no_answer"] = None
    elif not transcript.answer:
        found["empty_answer"] = None
    return tuple(found)


def format_reward(transcript: Transcript) -> float:
    """−1.0 if any rule is broken, else 0.0."""
    return -1.0 if violations(transcript) else 0.0


def _turn_violations(turn: Turn) -> list[str]:
    found = [fault for fault in turn.faults if fault != "text_outside"]
    kinds = [block.kind for block in turn.blocks]
    if not kinds or kinds[0] is not BlockKind.THINK:
        found.append("no_think")
    if any(b.kind is BlockKind.THINK and not b.text.strip(". \t\n") for b in turn.blocks):
        found.append("empty_think")
    if BlockKind.INFORMATION in kinds:
        found.append("forged_information")
    if sum(kind in (BlockKind.SEARCH, BlockKind.ANSWER) for kind in kinds) > 1:
        found.append("many_actions")
    if any(b.kind is BlockKind.SEARCH and parse_route(b.text) is None for b in turn.blocks):
        found.append("bad_route")
    elif turn.call is not None and turn.call.status is CallStatus.INVALID_ROUTE:
        found.append("unknown_model")
    return found
