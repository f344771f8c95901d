"""The published rules on whole text: what Router-R1's code at commit 801a240 reads in a response.

It looks at the text as it stands, a candidate's replies included; nothing but the preset `reference` uses it.
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
    """A block of the text: its opening tag, its trimmed content, and whether that holds a tag."""

    tag: str
    content: str
    nested: bool


class ReferenceReading:
    """One text, split at its tags once, and what the published code finds in it.

    A block starts at an opening tag and runs to the nearest later closing tag of its kind; the search for the next
    goes on behind it. An opening tag without such a closing tag is passed over.
    """

    def __init__(self, text: str) -> None:
        self._parts = split_at_tags(text)
        self.spans = _spans(self._parts, _PAIRS)  # the blocks of all four kinds
        # Whether every tag opens or closes a block: then none lies inside another, and all are in pairs.
        self._tidy = 4 * len(self.spans) + 1 == len(self._parts)
        self._faults: dict[str, list[str]] = {}  # of the searches, by their content

    @property
    def answer(self) -> str | None:
        """The last answer block's content, found by a scan for answers alone; None where there is none."""
        spans = self._of_kinds(_ANSWER_PAIR)
        return spans[-1].content if spans else None

    @property
    def routes(self) -> int:
        """Searches before the first that is malformed or names no model; a scan for searches and answers alone."""
        count = 0
        for span in self._of_kinds(_ROUTE_PAIRS):
            if span.tag == _SEARCH:
                faults = self._search_faults(span.content)
                if faults and faults != ["name_in_query"]:
                    break
                count += 1
        return count

    def violations(self) -> tuple[str, ...]:
        """Names of the rules broken, each once; none gives the format score 0, any −1.

        `no_block`; `unbalanced_tags` (as many opening as closing tags of each kind); `empty_think` (or `...`);
        `nested_tag`; `answer_count` (not exactly one); `no_think`; `unpaired_search` (as many searches as
        information blocks); `think_not_first` and `answer_not_last` (nothing but white space around them); and those
        of `search_faults`.
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
    """What is wrong with a search block's trimmed content.

    `bad_route` (not exactly one ASCII colon, or no query), `placeholder` (it repeats the prompt's example),
    `name_in_query` (an empty name is in every query), `unknown_model`.
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
    """Whether a lower-case name holds the words by which the published code knows a model."""
    if "qwen" in name or "palmyra" in name or "creative" in name:
        return True
    if "llama" in name:
        return "70b" in name or "51b" in name or "49b" in name or "8b" in name
    return "mistral" in name or "mixtral" in name or "granite" in name or "gemma" in name


def _spans(parts: list[str], pairs: Mapping[str, str]) -> list[Span]:
    """Blocks of the kinds in `pairs`; other kinds' tags are text. Takes time linear in the number of parts."""
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
        except ValueError:  # then no later one of its kind is closed, either
            del open_to_close[tag]
            position += 2
            continue
        found.append(Span(tag, "".join(parts[position + 1 : close]).strip(), True))
        position = close + 2
    return found
