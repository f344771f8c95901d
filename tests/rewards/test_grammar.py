"""The grammar: any text parses, wherever it is split, and a neutralised reply holds no tag."""

from __future__ import annotations

import codecs
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.grammar import CLOSE, OPEN, TAGS, TurnParser, neutralise, parse_route, parse_turn
from rewards.transcript import Block, BlockKind

pytestmark = pytest.mark.thorough

PIECES = st.lists(st.one_of(st.sampled_from([*TAGS, "<", ">", "</", "think", " ", "a: b"]), st.text(max_size=6)))
PLAIN = st.text(st.characters(blacklist_characters="<>", blacklist_categories=["Cs"]), max_size=20).map(str.strip)


def render_block(block: Block) -> str:
    return f"{OPEN[block.kind]} {block.text} {CLOSE[block.kind]}"


@given(PIECES)
def test_any_text_parses_and_blocks_hold_no_closing_tag_of_their_own(pieces: list[str]) -> None:
    blocks, faults = parse_turn("".join(pieces))
    for block in blocks:
        assert f"</{block.kind}>" not in block.text
    assert ("unclosed" in faults) == any(not block.closed for block in blocks)


@given(PIECES, st.data())
def test_the_parse_does_not_depend_on_where_the_stream_is_split(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    parser = TurnParser()
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        parser.feed(text[start:end])
    assert (parser.finish(), tuple(parser.faults)) == parse_turn(text)


@given(PIECES, st.integers(1, 4))
def test_the_parse_does_not_depend_on_where_the_bytes_are_split(pieces: list[str], size: int) -> None:
    text = "".join(pieces).encode("utf-8", "replace").decode()
    stream = text.encode()
    decoder = codecs.getincrementaldecoder("utf-8")()
    parser = TurnParser()
    for start in range(0, len(stream), size):
        parser.feed(decoder.decode(stream[start : start + size]))
    assert (parser.finish(), tuple(parser.faults)) == parse_turn(text)


@given(PIECES)
def test_who_watches_the_parser_changes_nothing_and_sees_all(pieces: list[str]) -> None:
    seen: list[str] = []
    parser = TurnParser(on_span=lambda text, kind: seen.append(text))
    parser.feed("".join(pieces))
    assert (parser.finish(), tuple(parser.faults)) == parse_turn("".join(pieces))
    assert "".join(seen) == "".join(pieces)


@given(st.lists(st.builds(Block, st.sampled_from(BlockKind), PLAIN), max_size=5))
def test_parsing_what_was_rendered_gives_it_back(blocks: list[Block]) -> None:
    assert parse_turn("\n".join(map(render_block, blocks))) == (tuple(blocks), ())


@given(PIECES)
def test_a_neutralised_reply_holds_no_tag(pieces: list[str]) -> None:
    harmless = neutralise("".join(pieces))
    assert not any(tag in harmless for tag in TAGS)
    assert neutralise(harmless) == harmless
    assert len(harmless) <= len("".join(pieces))


def test_neutralise_takes_linear_time() -> None:
    started = time.monotonic()
    neutralise("<" + " " * 40_000 + "x")
    assert time.monotonic() - started < 1


def test_neutralise_leaves_other_markup_alone() -> None:
    assert neutralise("a < b, <b>bold</b> </ANSWER > x") == "a < b, <b>bold</b> [/ANSWER] x"


def test_faults_are_named() -> None:
    assert parse_turn("hello <think> a </think>")[1] == ("text_outside",)
    assert parse_turn("<think> <search> </think>")[1] == ("nested_tag",)
    assert parse_turn("<think> a </think> </search>")[1] == ("stray_close",)
    assert parse_turn("<think> a")[1] == ("unclosed",)


def test_a_route_splits_at_its_first_colon() -> None:
    assert parse_route(" zumo : at 10:30, what? ") == ("zumo", "at 10:30, what?")
    assert parse_route("no colon") is None
    assert parse_route(": query") is None
    assert parse_route("name:  ") is None
