"""Demonstrations: episodes for the policy to imitate, from JSON lines to the policy's tokens.

A line is one demonstration (shown here on several lines):

    {"id": "nq/17",
     "dataset": "nq",
     "prompt": "Answer the question. ...",
     "segments": [
       {"text": "<think> ... </think> <search> gpt : who wrote it ? </search>", "sampled": true},
       {"text": "\\n<information> It was Ada. </information>\\n", "sampled": false},
       {"text": "<answer> Ada </answer>", "sampled": true}],
     "about": {"reward": 1.0}}

`prompt` is the user message. It gets the policy's own chat template when it is encoded, so that a file serves any
policy. `segments` follow the prompt in order: text that the policy writes is `sampled` and learnt, text that it reads
is not. `id` is unique over all files read together. `dataset` and `about` (an object for people) are optional.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.episodes.reply_tokens import Reader
from actors.errors import ExplainedError
from actors.json_lines import json_values
from learner.sft import SftExample
from rewards.grammar import CLOSE, OPEN, TAGS
from rewards.transcript import BlockKind

_FIELDS = ("id", "dataset", "prompt", "segments", "about")
# An episode encodes a reply and its two tags as separate texts (`actors.episodes.prompt.information_parts`), so that no
# token spans two of them. Demonstrations do the same.
_READ_APART = re.compile(rf"(\n?{OPEN[BlockKind.INFORMATION]}| ?{CLOSE[BlockKind.INFORMATION]}\n?)")


class DemonstrationError(ExplainedError, ValueError):
    """A demonstration can't be used; the message names file and line or id, field, value and remedy."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a demonstration: text that the policy writes (`sampled`) or reads."""

    text: str
    sampled: bool


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A user message and the segments that follow it."""

    id: str
    prompt: str
    segments: tuple[Segment, ...]
    dataset: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)  # for people; training ignores it

    def to_line(self) -> str:
        """The demonstration as a line of JSON, without the line break."""
        segments = [{"text": segment.text, "sampled": segment.sampled} for segment in self.segments]
        row = {"id": self.id, "dataset": self.dataset, "prompt": self.prompt, "segments": segments}
        return json.dumps(row | {"about": dict(self.about)}, ensure_ascii=False)


def parse_demonstration(row: object, where: str) -> Demonstration:
    """Check and convert one decoded JSON row; `where` names it in error messages.

    Raises:
        DemonstrationError: a field is missing, unknown, of the wrong type or blank, no segment is sampled, or a text
            contains a lone surrogate.
    """
    if not isinstance(row, dict):
        raise DemonstrationError(f"{where}: expected a JSON object with id, prompt and segments, got {row!r:.80}")
    if unknown := sorted(row.keys() - set(_FIELDS)):
        raise DemonstrationError(f"{where}: unknown field {unknown[0]!r}; the fields are {', '.join(_FIELDS)}")
    for name in ("id", "prompt"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise DemonstrationError(f"{where}: field {name!r} must be a text that is not blank, got {row.get(name)!r}")
    dataset, about, segments = row.get("dataset", ""), row.get("about", {}), row.get("segments")
    if not isinstance(dataset, str):
        raise DemonstrationError(f"{where}: field 'dataset' must be a text, got {dataset!r:.80}")
    if not isinstance(about, dict):
        raise DemonstrationError(f"{where}: field 'about' must be an object, got {about!r:.80}")
    if not isinstance(segments, list):
        raise DemonstrationError(f"{where}: field 'segments' must be a list, got {segments!r:.80}")
    parsed = tuple(_parse_segment(segment, f"{where}: segments[{place}]") for place, segment in enumerate(segments))
    if not any(segment.sampled for segment in parsed):
        raise DemonstrationError(f"{where}: field 'segments' has none with sampled=true, so there is nothing to learn")
    for text in (row["id"], row["prompt"], dataset, *(segment.text for segment in parsed)):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise DemonstrationError(
                f"{where}: {text!r:.80} contains a lone surrogate, which no tokenizer can encode; remove it"
            )
    return Demonstration(row["id"], row["prompt"], parsed, dataset, about)


def _parse_segment(row: object, where: str) -> Segment:
    if not isinstance(row, dict) or row.keys() != {"text", "sampled"}:
        raise DemonstrationError(f'{where} must be {{"text": ..., "sampled": true or false}}, got {row!r:.80}')
    text, sampled = row["text"], row["sampled"]
    if not isinstance(text, str) or not text:
        raise DemonstrationError(f"{where}.text must be a text that is not empty, got {text!r:.80}")
    if not isinstance(sampled, bool):
        raise DemonstrationError(f"{where}.sampled must be true or false, got {sampled!r:.80}")
    return Segment(text, sampled)


def load_demonstrations(paths: Iterable[Path]) -> list[Demonstration]:
    """Read JSONL files, one after the other; blank lines are skipped.

    Raises:
        DemonstrationError: a file is missing or has no demonstration, a line is malformed or not UTF-8, or an id is
            not unique.
    """
    found: dict[str, Demonstration] = {}
    for path in paths:
        if not path.is_file():
            raise DemonstrationError(
                f"{path}: no such file of demonstrations; give a JSONL file, such as `router-r1 demonstrate` writes"
            )
        before = len(found)
        for where, row in json_values(path, DemonstrationError):
            demonstration = parse_demonstration(row, where)
            if demonstration.id in found:
                raise DemonstrationError(f"{where}: id {demonstration.id!r} was given before; make ids unique")
            found[demonstration.id] = demonstration
        if len(found) == before:
            raise DemonstrationError(f"{path}: holds no demonstrations")
    return list(found.values())


class DemonstrationEncoder:
    """Turns demonstrations into the same tokens that an episode of the policy would have."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        """`max_tokens` is the length limit of an episode, `engine.max_model_len`."""
        self._tokenizer = tokenizer
        self._reader = Reader(tokenizer, max_tokens)
        self._max_tokens = max_tokens
        # A tag may be a special token of its own; the policy may write these.
        tags = set(tokenizer.convert_tokens_to_ids([tag for tag in TAGS if tag in tokenizer.get_vocab()]))
        self._forbidden = set(tokenizer.all_special_ids) - tags

    def encode(self, demonstration: Demonstration) -> SftExample:
        """The demonstration's tokens `[T]`, and for each whether it is learnt.

        Raises:
            DemonstrationError: there are too many tokens, or a sampled segment spells a control token or a word that
                the tokenizer does not know.
        """
        ids = self._reader.encode_chat(demonstration.prompt)
        sampled = [False] * len(ids)
        for place, segment in enumerate(demonstration.segments):
            tokens = self._encode_segment(segment)
            if segment.sampled and (bad := self._forbidden.intersection(tokens)):
                token = self._tokenizer.convert_ids_to_tokens(min(bad))
                raise DemonstrationError(
                    f"demonstration {demonstration.id!r}: segments[{place}].text {segment.text!r:.80} is encoded with "
                    f"the token {token!r}, which a policy must not learn to write; reword the text, or use another "
                    "policy"
                )
            ids += tokens
            sampled += [segment.sampled] * len(tokens)
        if len(ids) > self._max_tokens:
            raise DemonstrationError(
                f"demonstration {demonstration.id!r} takes {len(ids)} tokens, more than an episode can have "
                f"(engine.max_model_len={self._max_tokens}); raise engine.max_model_len, or remove the line"
            )
        return SftExample(ids, sampled, label=f"demonstration {demonstration.id!r}")

    def encode_all(self, demonstrations: Sequence[Demonstration]) -> list[SftExample]:
        """Encode all demonstrations, in order; raises as `encode`."""
        return [self.encode(demonstration) for demonstration in demonstrations]

    def _encode_segment(self, segment: Segment) -> list[int]:
        if segment.sampled:
            return list(self._tokenizer.encode(segment.text, add_special_tokens=False))
        return [token for part in _READ_APART.split(segment.text) if part for token in self._reader.encode(part)]
