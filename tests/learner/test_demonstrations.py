"""The format of demonstrations: written lines are read back, and errors give the number of a bad line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.episodes.prompt import information_parts
from actors.episodes.reply_tokens import Reader
from benchmarks.world.language import EOS, build_tokenizer
from learner.demonstrations import (
    Demonstration,
    DemonstrationEncoder,
    DemonstrationError,
    Segment,
    load_demonstrations,
    parse_demonstration,
)

TOKENIZER = build_tokenizer()
SAID = Segment("<think> astronomy </think> <search> diko : comet of lanu </search>", True)
READ = Segment("\n<information> it is sena . </information>\n", False)
ANSWERED = Segment("<answer> sena </answer>", True)
DEMONSTRATION = Demonstration("a", "what is the comet of lanu ?", (SAID, READ, ANSWERED), "world", {"reward": 1.0})

_TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1)
_WORDS = _TEXTS.filter(str.strip)


@settings(max_examples=60)
@given(_WORDS, _WORDS, st.lists(st.builds(Segment, _TEXTS, st.booleans()), max_size=4), st.text(max_size=4))
def test_what_is_written_reads_back(ident: str, prompt: str, segments: list[Segment], about: str) -> None:
    demonstration = Demonstration(ident, prompt, (*segments, ANSWERED), "", {"note": about})
    line = demonstration.to_line()
    assert "\n" not in line
    assert parse_demonstration(json.loads(line), "here") == demonstration


def row(**changes: Any) -> dict[str, Any]:
    return json.loads(DEMONSTRATION.to_line()) | changes


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        (row(id=" "), "field 'id' must be a text that is not blank, got ' '"),
        (row(prompt=3), "field 'prompt' must be a text that is not blank, got 3"),
        (row(segments="x"), "field 'segments' must be a list, got 'x'"),
        (row(segments=[{"text": "x", "sampled": 1}]), r"segments\[0\].sampled must be true or false, got 1"),
        (row(segments=[{"text": "", "sampled": True}]), r"segments\[0\].text must be a text that is not empty"),
        (row(segments=[{"text": "x"}]), r"segments\[0\] must be"),
        (row(segments=[{"text": "x", "sampled": False}]), "nothing to learn"),
        (row(prompt="\ud800"), "lone surrogate"),
        (row(dataset=1), "field 'dataset' must be a text, got 1"),
        (row(about=[]), "field 'about' must be an object"),
        (row(turns=[]), "unknown field 'turns'; the fields are id, dataset, prompt, segments, about"),
        (row(), "id 'a' was given before"),
    ],
)
def test_a_bad_line_is_told_by_its_number(tmp_path: Path, line: str | dict[str, Any], words: str) -> None:
    path = tmp_path / "demos.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_text(f"{DEMONSTRATION.to_line()}\n\n{text}\n", encoding="utf-8")
    with pytest.raises(DemonstrationError, match=f"demos.jsonl, line 3: ?.*{words}"):
        load_demonstrations([path])


def test_files_are_read_one_after_the_other_and_must_hold_something(tmp_path: Path) -> None:
    first, second, empty = (tmp_path / name for name in ("1.jsonl", "2.jsonl", "3.jsonl"))
    first.write_text(DEMONSTRATION.to_line() + "\n", encoding="utf-8")
    second.write_text(json.dumps(row(id="b")), encoding="utf-8")
    empty.write_text("\n", encoding="utf-8")
    assert [d.id for d in load_demonstrations([first, second])] == ["a", "b"]
    with pytest.raises(DemonstrationError, match=r"3.jsonl: holds no demonstrations"):
        load_demonstrations([first, empty])
    with pytest.raises(DemonstrationError, match=r"4.jsonl: no such file"):
        load_demonstrations([tmp_path / "4.jsonl"])
    empty.write_bytes(b"\n\xff\n")
    with pytest.raises(DemonstrationError, match=r"line 2: not UTF-8 \(byte 0\)"):
        load_demonstrations([empty])


def test_only_what_the_policy_writes_is_learnt() -> None:
    example = DemonstrationEncoder(TOKENIZER, 512).encode(DEMONSTRATION)
    learnt = [token for token, sampled in zip(example.token_ids, example.sampled, strict=True) if sampled]
    assert learnt == TOKENIZER.encode(SAID.text + ANSWERED.text, add_special_tokens=False)
    prompt = Reader(TOKENIZER, 9).encode_chat(DEMONSTRATION.prompt)
    assert example.token_ids[: len(prompt)] == prompt
    assert not any(example.sampled[: len(prompt)])
    assert example.label == "demonstration 'a'"


class LettersInPairs:
    """A tokenizer that, as byte-pair encodings do, merges across a tag's edge unless texts are encoded separately."""

    all_special_ids = (0,)

    def get_vocab(self) -> dict[str, int]:
        return {}

    def get_added_vocab(self) -> dict[str, int]:
        return {}

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        return []

    def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> list[int]:
        return self.encode(messages[0]["content"])

    def encode(self, text: str, **_: object) -> list[int]:
        return [1 + sum(ord(c) * 70_000**i for i, c in enumerate(text[at : at + 2])) for at in range(0, len(text), 2)]


def test_a_reply_is_encoded_apart_from_its_tags_as_in_an_episode() -> None:
    tokenizer: Any = LettersInPairs()
    parts = information_parts("it is Adam")
    notice = "answer now .\n"
    read = Segment("".join(parts) + notice, False)
    example = DemonstrationEncoder(tokenizer, 999).encode(Demonstration("a", "who", (read, ANSWERED)))
    apart = [token for text in ("who", *parts, notice, ANSWERED.text) for token in tokenizer.encode(text)]
    assert example.token_ids == apart
    assert apart != [token for text in ("who", read.text, ANSWERED.text) for token in tokenizer.encode(text)]


@pytest.mark.parametrize(("text", "token"), [(f"so {EOS}", EOS), ("photosynthesis", r"<\|unknown\|>")])
def test_control_tokens_and_unknown_words_are_not_taught(text: str, token: str) -> None:
    taught = Demonstration("a", "what is it ?", (Segment(text, True),))
    with pytest.raises(DemonstrationError, match=rf"'a': segments\[0\].text .*{token.replace('<|end|>', '<.end.>')}"):
        DemonstrationEncoder(TOKENIZER, 512).encode(taught)
    read = Demonstration("a", "what is it ?", (Segment(text, False), ANSWERED))
    assert DemonstrationEncoder(TOKENIZER, 512).encode(read).token_ids


def test_one_that_no_episode_could_hold_is_refused() -> None:
    length = len(DemonstrationEncoder(TOKENIZER, 512).encode(DEMONSTRATION).token_ids)
    assert DemonstrationEncoder(TOKENIZER, length).encode_all([DEMONSTRATION])
    with pytest.raises(DemonstrationError, match=rf"takes {length} tokens.*engine.max_model_len={length - 1}"):
        DemonstrationEncoder(TOKENIZER, length - 1).encode(DEMONSTRATION)
