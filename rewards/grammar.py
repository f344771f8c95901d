"""The grammar of what a policy writes: an incremental parser of tagged blocks.

It reads sampled text only. What a candidate replied is attached to a turn as data and never comes here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rewards.transcript import Block, BlockKind

OPEN = {kind: f"<{kind}>" for kind in BlockKind}
CLOSE = {kind: f"</{kind}>" for kind in BlockKind}
TAGS = tuple(OPEN.values()) + tuple(CLOSE.values())
STOPS = (CLOSE[BlockKind.SEARCH], CLOSE[BlockKind.ANSWER])  # generation ends with one of these

_TAG = re.compile("|".join(map(re.escape, TAGS)))
_LONGEST_TAG = max(map(len, TAGS))
# As a reply may spell a tag. Possessive, or a long run of white space takes quadratic time.
_ANY_TAG = re.compile(rf"<\s*+(/?)\s*+({'|'.join(BlockKind)})\s*+>", re.I)


@dataclass(slots=True)
class TurnParser:
    """Parses one turn as it streams in; the result does not depend on where the stream was split.

    `blocks` holds the finished blocks. `faults` names what is wrong with the form, in order:
    `text_outside` (text between blocks), `nested_tag` (an opening tag inside a block), `stray_close`
    (a closing tag that closes nothing), `unclosed` (the turn ended inside a block).
    """

    blocks: list[Block] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _pending: str = ""  # what may still be the beginning of a tag
    _open: BlockKind | None = None
    _content: list[str] = field(default_factory=list)

    def feed(self, text: str) -> None:
        """Read the next piece of sampled text."""
        buffer = self._pending + text
        position = 0
        for match in _TAG.finditer(buffer):
            self._text(buffer[position : match.start()])
            self._tag(match.group())
            position = match.end()
        tail = buffer[position:]
        keep = _tag_prefix_length(tail)
        self._text(tail[: len(tail) - keep])
        self._pending = tail[len(tail) - keep :]

    def finish(self) -> tuple[Block, ...]:
        """Close the turn and return its blocks; an open block is kept and marked as not closed."""
        self._text(self._pending)
        self._pending = ""
        if self._open is not None:
            self.blocks.append(Block(self._open, "".join(self._content).strip(), closed=False))
            self.faults.append("unclosed")
            self._open = None
        return tuple(self.blocks)

    def _text(self, text: str) -> None:
        if self._open is not None:
            self._content.append(text)
        elif text.strip() and "text_outside" not in self.faults:
            self.faults.append("text_outside")

    def _tag(self, tag: str) -> None:
        kind = BlockKind(tag.strip("</>"))
        if tag == OPEN[kind]:
            if self._open is None:
                self._open, self._content = kind, []
            else:
                self.faults.append("nested_tag")
                self._content.append(tag)
        elif kind is self._open:
            self.blocks.append(Block(kind, "".join(self._content).strip()))
            self._open = None
        else:
            self.faults.append("stray_close")
            if self._open is not None:
                self._content.append(tag)


def parse_turn(text: str) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """Parse the whole text of a turn; return its blocks and the names of its faults."""
    parser = TurnParser()
    parser.feed(text)
    blocks = parser.finish()
    return blocks, tuple(parser.faults)


def parse_route(content: str) -> tuple[str, str] | None:
    """Split the content of a search block, `name: query`, at its first colon; None where it has no such form."""
    name, colon, query = content.partition(":")
    return (name.strip(), query.strip()) if colon and name.strip() and query.strip() else None


def neutralise(reply: str) -> str:
    """Make a reply's protocol tags harmless: their angle brackets become square ones (invariant 5).

    Takes time linear in the reply's length, and never makes it longer.
    """
    return _ANY_TAG.sub(lambda m: f"[{m.group(1)}{m.group(2)}]", reply)


def _tag_prefix_length(text: str) -> int:
    """Length of the longest end of `text` with which a tag could begin."""
    for length in range(min(len(text), _LONGEST_TAG - 1), 0, -1):
        if any(tag.startswith(text[-length:]) for tag in TAGS):
            return length
    return 0
