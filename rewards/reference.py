"""The published rules on whole text: how Router-R1's code at commit 801a240 reads a response.

That code reads the whole text, the candidates' replies included. Only the preset `reference` uses this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rewards.grammar import CLOSE, OPEN, split_at_tags
from rewards.transcript import BlockKind

_PAIRS = {OPEN[kind]: CLOSE[kind] for kind in BlockKind}
_THINK, _SEARCH = OPEN[BlockKind.THINK], OPEN[BlockKind.SEARCH]
_INFORMATION, _ANSWER = OPEN[BlockKind.INFORMATION], OPEN[BlockKind.ANSWER]
_ROUTE_PAIRS = {tag: _PAIRS[tag] for tag in (_SEARCH, _ANSWER)}
_ANSWER_PAIR = {_ANSWER: _PAIRS[_ANSWER]}


class Span(NamedTuple):
    """A block of the text: its opening tag, its trimmed content, and whether the content contains a tag."""

    tag: str
    content: str
    nested: bool


class ReferenceReading:
    """What the published code finds in one text; the text is split at its tags once.

    A block runs from an opening tag to the nearest later closing tag of its kind; the scan continues after that tag.
    An opening tag without a later closing tag of its kind is skipped.
    """

    def __init__(self, text: str) -> None:
        self._parts = split_at_tags(text)
        self.spans = _spans(self._parts, _PAIRS)  # the blocks of all four kinds
        # Whether every tag opens or closes a block: then no tag lies inside a block, and all tags form pairs.
        self._tidy = 4 * len(self.spans) + 1 == len(self._parts)
        self._faults: dict[str, list[str]] = {}  # cache: the faults of a search, by its content

    @property
    def answer(self) -> str | None:
        """The content of the last answer block, found by a scan for answer tags alone; None if there is none."""
        spans = self._of_kinds(_ANSWER_PAIR)
        return spans[-1].content if spans else None

    @property
    def routes(self) -> int:
        """Number of searches before the first that is malformed or names no model.

        Found by a scan for search and answer tags alone. A name that is repeated in its query is no fault here.
        """
        count = 0
        for span in self._of_kinds(_ROUTE_PAIRS):
            if span.tag == _SEARCH:
                faults = self._search_faults(span.content)
                if faults and faults != ["name_in_query"]:
                    break
                count += 1
        return count

    def violations(self) -> tuple[str, ...]:
        """Names of the rules that the text breaks, each once. The format score is 0 if there are none, else −1.

        `no_block`; `unbalanced_tags` (a kind has not as many closing as opening tags); `empty_think` (empty or `...`);
        `nested_tag`; `answer_count` (not exactly one answer); `no_think`; `unpaired_search` (not as many information
        blocks as searches); `think_not_first` and `answer_not_last` (only white space may stand before the first think
        tag and after the last answer tag); and the faults of `search_faults`.
        """
        parts, spans = self._parts, self.spans
        if not spans:
            return ("no_block",)
        kinds = [span.tag for span in spans]
        found: dict[str, None] = {}
        if not self._tidy and any(parts.count(opening) != parts.count(closing) for opening, closing in _PAIRS.items()):
            found["unbalanced_tags"] = None
        if kinds.count(_ANSWER) != 1:
            found["answer_count"] = None
        if _THINK not in kinds:
            found["no_think"] = None
        if kinds.count(_SEARCH) != kinds.count(_INFORMATION):
            found["unpaired_search"] = None
        if parts[1] != _THINK or parts[0].strip():
            found["think_not_first"] = None
        if parts[-2] != _PAIRS[_ANSWER] or parts[-1].strip():
            found["answer_not_last"] = None
        for tag, content, nested in spans:
            if nested:
                found["nested_tag"] = None
            if tag == _SEARCH:
                found |= dict.fromkeys(self._search_faults(content))
            elif tag == _THINK and content in ("", "..."):
                found["empty_think"] = None
        return tuple(found)

    def _of_kinds(self, pairs: Mapping[str, str]) -> list[Span]:
        """The blocks that a scan for these kinds alone finds."""
        if self._tidy:
            return [span for span in self.spans if span.tag in pairs]
        return _spans(self._parts, pairs)

    def _search_faults(self, content: str) -> list[str]:
        faults = self._faults.get(content)
        if faults is None:
            faults = self._faults[content] = search_faults(content)
        return faults


def search_faults(content: str) -> list[str]:
    """Names of the faults in a search block's trimmed content.

    `bad_route` (not exactly one ASCII colon, or no query), `placeholder` (the search repeats the prompt's example),
    `name_in_query` (the query contains the name; every query contains an empty name), `unknown_model`.
    """
    name, colon, query = content.partition(":")
    if not colon or ":" in query:
        return ["bad_route"]
    found = []
    name, query, lowered = name.strip().lower(), query.strip().lower(), content.lower()
    if not query:
        found.append("bad_route")
    if "llm-name" in lowered or "your-query" in lowered:
        found.append("placeholder")
    if name in query:
        found.append("name_in_query")
    if not accepts_name(name):
        found.append("unknown_model")
    return found


def accepts_name(name: str) -> bool:
    """Whether a lower-case name contains the words by which the published code recognises a model."""
    if "qwen" in name or "palmyra" in name or "creative" in name:
        return True
    if "llama" in name:
        return "70b" in name or "51b" in name or "49b" in name or "8b" in name
    return "mistral" in name or "mixtral" in name or "granite" in name or "gemma" in name


def _spans(parts: list[str], pairs: Mapping[str, str]) -> list[Span]:
    """Blocks of the kinds in `pairs`; tags of other kinds count as text. Takes time linear in the number of parts."""
    found: list[Span] = []
    open_to_close = dict(pairs)
    position, end = 1, len(parts)
    while position < end:
        tag = parts[position]
        closing = open_to_close.get(tag)
        if closing is None:
            position += 2
            continue
        after = position + 2
        if after < end and parts[after] == closing:
            found.append(Span(tag, parts[position + 1].strip(), False))
            position = after + 2
            continue
        try:
            close = parts.index(closing, after)
        except ValueError:  # no closing tag follows, so no later block of this kind can be closed either
            del open_to_close[tag]
            position += 2
            continue
        found.append(Span(tag, "".join(parts[position + 1 : close]).strip(), True))
        position = close + 2
    return found
