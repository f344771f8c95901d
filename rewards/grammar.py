"""The grammar of the policy's text: an incremental parser of tagged blocks.

It reads sampled text only. A candidate's reply is attached to its turn as data and is never parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from rewards.transcript import Block, BlockKind

OPEN = {kind: f"<{kind}>" for kind in BlockKind}
CLOSE = {kind: f"</{kind}>" for kind in BlockKind}
TAGS = tuple(OPEN.values()) + tuple(CLOSE.values())
STOPS = (CLOSE[BlockKind.SEARCH], CLOSE[BlockKind.ANSWER])  # generation ends with one of these

_TAG = re.compile(f"({'|'.join(map(re.escape, TAGS))})")
_LONGEST_TAG = max(map(len, TAGS))
_KIND = {tag: kind for tags in (OPEN, CLOSE) for kind, tag in tags.items()}
_CLOSING = {OPEN[kind]: CLOSE[kind] for kind in BlockKind}
# Every spelling of a tag in a reply. The quantifiers are possessive: without that, a long run of white space would
# take quadratic time.
_ANY_TAG = re.compile(rf"<\s*+(/?)\s*+({'|'.join(BlockKind)})\s*+>", re.I)


@dataclass(slots=True)
class TurnParser:
    """Parses one turn as it streams in; the result does not depend on where the stream was split.

    `blocks` holds the finished blocks. `faults` names the faults of form, in order:
    `text_outside` (text between blocks), `nested_tag` (an opening tag inside a block), `stray_close`
    (a closing tag that closes nothing), `unclosed` (the turn ended inside a block).

    `on_span` is called with each piece of text, never an empty one, and the kind of its block: the block that contains
    the text, or that the tag opens or closes. Outside of all blocks the kind is None.
    """

    blocks: list[Block] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    on_span: Callable[[str, BlockKind | None], None] | None = None
    _pending: str = ""  # text at the end that may be the beginning of a tag
    _open: BlockKind | None = None
    _content: list[str] = field(default_factory=list)

    def feed(self, text: str) -> None:
        """Read the next piece of sampled text."""
        parts = split_at_tags(self._pending + text)
        keep = _tag_prefix_length(parts[-1])
        self._pending = parts[-1][len(parts[-1]) - keep :]
        parts[-1] = parts[-1][: len(parts[-1]) - keep]
        self.feed_parts(parts)

    def feed_parts(self, parts: list[str]) -> None:
        """Read a piece that `split_at_tags` has split; the last part is text, even if it could begin a tag."""
        position, last, direct = 0, len(parts) - 1, self.on_span is None
        while position < last:
            plain, tag = parts[position], parts[position + 1]
            if plain:
                self._text(plain)
            if direct and self._open is None and parts[min(position + 3, last)] == _CLOSING.get(tag):
                # Most blocks are closed by the very next tag. The other branch gives the same result in twice the time.
                self.blocks.append(Block(_KIND[tag], parts[position + 2].strip()))
                position += 4
            else:
                self._tag(tag)
                position += 2
        self._text(parts[position])

    @property
    def outside(self) -> bool:
        """Whether the text read so far ends outside of all blocks."""
        return self._open is None

    def withdraw_information(self) -> bool:
        """Forget an opening information tag at the end of the text; return whether there was one.

        A policy writes that tag to ask for the replies to its searches.
        """
        ends = self._open is BlockKind.INFORMATION and not self._pending and not any(self._content)
        if ends:
            self._open = None
        return ends

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
        if text and self.on_span is not None:
            self.on_span(text, self._open)
        if self._open is not None:
            self._content.append(text)
        elif text.strip() and "text_outside" not in self.faults:
            self.faults.append("text_outside")

    def _tag(self, tag: str) -> None:
        kind = _KIND[tag]
        if self.on_span is not None:
            self.on_span(tag, kind if self._open is None and tag == OPEN[kind] else self._open)
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
    """Split the content of a search block, `name: query`, at its first colon; None if a part is missing or empty."""
    name, _, query = content.partition(":")
    name, query = name.strip(), query.strip()
    return (name, query) if name and query else None


def neutralise(reply: str) -> str:
    """Make a reply's protocol tags harmless: their angle brackets become square ones (invariant 5).

    Takes time linear in the reply's length, and never makes it longer.
    """
    return _ANY_TAG.sub(r"[\1\2]", reply)


def split_at_tags(text: str) -> list[str]:
    """Split a text at every tag and keep the tags: text, tag, text, …, tag, text. Tags have the odd indices."""
    return _TAG.split(text)


def _tag_prefix_length(text: str) -> int:
    """Length of the longest suffix of `text` that begins a tag; a tag has `<` only as its first character."""
    start = text.rfind("<", max(0, len(text) - _LONGEST_TAG + 1))
    return len(text) - start if start >= 0 and any(tag.startswith(text[start:]) for tag in TAGS) else 0
