"""A transcript as text with its information blocks, and back again.

Training never reads such text: there a reply is data from the start. This module is for files of finished episodes,
where only its position tells a reply from the policy's own words.
"""

from __future__ import annotations

from collections.abc import Callable

from rewards.grammar import CLOSE, OPEN, TurnParser, parse_route, split_at_tags
from rewards.transcript import BlockKind, CallStatus, RouteCall, StopReason, Transcript, Turn

_SEARCH, _ANSWER = BlockKind.SEARCH, BlockKind.ANSWER  # cached: Enum attribute access is slow in these loops
_OK, _INVALID_ROUTE = CallStatus.OK, CallStatus.INVALID_ROUTE
_INFORMATION = OPEN[BlockKind.INFORMATION]
_END_OF_INFORMATION = CLOSE[BlockKind.INFORMATION]


def render_transcript(transcript: Transcript) -> str:
    """The whole text of an episode, in the form that Router-R1's published code reads; replies are not changed.

    A call without a reply, such as an invalid route, gives an empty information block.
    """
    pieces: list[str] = []
    for turn in transcript.turns:
        pieces.append(turn.text)
        pieces += [f"{_INFORMATION} {call.reply} {_END_OF_INFORMATION}" for call in turn.calls]
    return "".join(pieces)


def read_transcript(
    text: str, resolve: Callable[[str], str | None] | None = None, *, searches_per_turn: int = 1
) -> Transcript:
    """Read a text into turns with their calls; any string can be read.

    An information block after a search is the reply to that search, whatever the block contains up to the nearest
    `</information>`. It ends the turn; the blocks right behind it answer the turn's next searches, up to
    `searches_per_turn` in all. An information block that answers no search counts as the policy's own text and stays
    in its turn. Costs, tokens and latencies are 0, because a text does not tell them.

    Args:
        resolve: gives the model for a name in a search, or None if there is no such model; by default every name is
            the name of a model.
    """
    return _Reader(text, resolve, searches_per_turn).read()


class _Reader:
    """Reads one text; its parser gets the policy's words and never the replies."""

    def __init__(self, text: str, resolve: Callable[[str], str | None] | None, searches_per_turn: int) -> None:
        self.parts = split_at_tags(text)
        self.resolve = resolve or str
        self.searches_per_turn = searches_per_turn
        self.turns: list[Turn] = []
        self.parser = TurnParser()  # of the current turn
        self.start = 0  # index in `parts` where the current turn begins
        self.seen = 0  # number of the parser's blocks already looked at
        self.searches: list[str] = []  # contents of the searches among those blocks

    def read(self) -> Transcript:
        parts, position = self.parts, 0
        while (at := _find(parts, _INFORMATION, position)) is not None:
            self.parser.feed_parts(parts[position:at])
            end = _find(parts, _END_OF_INFORMATION, at) if self._awaits_reply() else None
            if end is None:  # this block is the policy's own text
                self.parser.feed_parts(["", _INFORMATION, ""])
                position = at + 1
            else:
                position = self._end_turn(at, end)
        self.parser.feed_parts(parts[position:])
        if len(parts) - self.start > 1 or parts[-1].strip() or not self.turns:
            self._add_turn(len(parts), ())
        return Transcript(tuple(self.turns), _stop_reason(self.turns[-1]))

    def _awaits_reply(self) -> bool:
        """Whether an information block at this place answers a search of the turn."""
        blocks = self.parser.blocks
        for block in blocks[self.seen :]:
            if block.kind is _SEARCH:
                self.searches.append(block.text)
        self.seen = len(blocks)
        return bool(self.searches) and self.parser.outside

    def _end_turn(self, at: int, end: int) -> int:
        """End the turn with the reply in `parts[at:end]` and those right behind it; return where the next begins."""
        parts = self.parts
        calls = [self._call(self.searches[0], parts[at + 1 : end])]
        for search in self.searches[1 : self.searches_per_turn]:
            if parts[end + 1].strip() or parts[end + 2 : end + 3] != [_INFORMATION]:
                break
            next_end = _find(parts, _END_OF_INFORMATION, end + 2)
            if next_end is None:
                break
            calls.append(self._call(search, parts[end + 3 : next_end]))
            end = next_end
        self._add_turn(at, tuple(calls))
        self.parser, self.start, self.seen, self.searches = TurnParser(), end + 1, 0, []
        return self.start

    def _add_turn(self, end: int, calls: tuple[RouteCall, ...]) -> None:
        blocks = self.parser.finish()
        text = "".join(self.parts[self.start : end])
        self.turns.append(Turn(text, blocks, calls, tuple(self.parser.faults)))

    def _call(self, search: str, reply: list[str]) -> RouteCall:
        route = parse_route(search)
        requested, query = route or (search.partition(":")[0].strip(), "")
        model = self.resolve(requested) if route else None
        status = _INVALID_ROUTE if model is None else _OK
        return RouteCall(requested, model, query, status, "".join(reply).strip())


def _find(parts: list[str], tag: str, start: int) -> int | None:
    try:
        return parts.index(tag, start)
    except ValueError:
        return None


def _stop_reason(last: Turn) -> StopReason:
    """Why the episode ended, as far as its last turn shows."""
    if any(block.kind is _ANSWER and block.closed for block in last.blocks):
        return StopReason.ANSWERED
    if last.calls or "unclosed" in last.faults:
        return StopReason.OUT_OF_TOKENS
    searched = any(block.kind is _SEARCH for block in last.blocks)
    return StopReason.OUT_OF_ROUNDS if searched else StopReason.NO_ACTION
