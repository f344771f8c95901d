"""Scoring files (`router-r1 score`): JSON lines of finished episodes in, JSON lines of rewards out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, TypeGuard

import orjson

from actors.pool.cards import ModelCard, find_pool, load_cards, resolve
from rewards.cost import derived_cost_scale_usd
from rewards.presets import Judge, RewardBreakdown
from rewards.settings import Metric, Preset, RewardSettings
from rewards.text import read_transcript

_BLOCK = 1 << 18  # most bytes read at a time; results appear after each read
_LONGEST_LINE = 1 << 24  # bytes; an episode has a few thousand
# Router-R1's limits (appendix A): calls of an episode, tokens of a reply.
_ROUNDS, _REPLY_TOKENS = 4, 512


class BadLine(ValueError):
    """A line that can't be scored; the message says why, and names field and value."""


class Sample(NamedTuple):
    """One line of the input."""

    id: str | int | float
    response: str
    answers: Sequence[str]
    cost: float  # raw: completion tokens times USD per million of them
    models: tuple[str, ...] | None  # names that searches may use; None: the paper's six


def score_settings(preset: Preset, metric: Metric, alpha: float, cost_scale_usd: float | None) -> RewardSettings:
    """Settings to score with. If the scale is None, preset `default` uses the most that an episode can cost.

    This is an episode with the paper's six candidates; only completion tokens count, because raw costs have no others.

    Raises:
        ValueError: a setting is out of its range; the message names it.
    """
    if preset == "default" and cost_scale_usd is None:
        prices = [(card.price_in_usd_per_mtok, card.price_out_usd_per_mtok) for card in _paper_cards()]
        cost_scale_usd = derived_cost_scale_usd(prices, 0, _REPLY_TOKENS, _ROUNDS)
    return RewardSettings(preset=preset, metric=metric, alpha=alpha, cost_scale_usd=cost_scale_usd)


def score_stream(source: BufferedIOBase, out: BinaryIO, errors: TextIO, settings: RewardSettings) -> int:
    """Score JSON lines from `source`; write a line to `out` for each good one, in order; return how many are bad.

    A bad line is reported to `errors` with its number, counted from 1, and does not enter the cost window.
    """
    judge = Judge(settings)
    number = bad = 0
    for lines in _line_blocks(source):
        scored: list[bytes] = []
        for line in lines:
            number += 1
            try:
                scored.append(score_line(line, judge))
            except BadLine as error:
                bad += 1
                errors.write(f"line {number}: {error}\n")
        if scored:
            out.write(b"\n".join(scored) + b"\n")
            out.flush()
    return bad


def score_line(line: bytes, judge: Judge) -> bytes:
    """Score one line of JSON; the result is JSON in ASCII, without a line end.

    Raises:
        BadLine: it is too long or not JSON, a field is missing or of the wrong type, or it can't be judged.
    """
    if len(line) > _LONGEST_LINE:
        raise BadLine(f"longer than {_LONGEST_LINE >> 20} MiB, the most that is read; write one JSON object a line")
    sample = parse_line(line)
    settings = judge.settings
    try:
        if settings.preset == "reference":
            found = judge.judge_text(sample.response, sample.answers, sample.cost)
        else:
            transcript = read_transcript(sample.response, _resolver(sample.models))
            found = judge.judge(
                transcript, sample.answers, raw_cost=sample.cost, cost_usd=sample.cost / 1e6, question=str(sample.id)
            )
    except ValueError as error:
        raise BadLine(f"id {sample.id!r}: {error}") from None
    scored = {
        "id": sample.id,
        "format": found.format,
        "violations": found.violations,
        "em": _reported_em(found, settings),
        "f1": found.f1,
        "cost_reward": found.cost,
        "reward": found.total,
        "routes": found.routes,
    }
    plain = not isinstance(sample.id, str) or sample.id.isascii()
    return orjson.dumps(scored) if plain else json.dumps(scored).encode("ascii")


def parse_line(line: bytes) -> Sample:
    """Read a line of the input.

    Raises:
        BadLine: it is not a JSON object, or a field is missing, of the wrong type or out of its range.
    """
    row = _parse_json(line)
    if not isinstance(row, dict):
        raise BadLine(f"expected a JSON object with id, response and answers, got {type(row).__name__}")
    missing = [name for name in ("id", "response", "answers") if name not in row]
    if missing:
        known = f"id {row['id']!r}: " if "id" in row else ""
        raise BadLine(f"{known}field {missing[0]!r} is missing; add it")
    ident, response, answers = row["id"], row["response"], row["answers"]
    if not _is_id(ident):
        raise BadLine(f"field 'id' must be a text or a finite number, got {ident!r:.80}")
    if not isinstance(response, str):
        raise BadLine(f"id {ident!r}: field 'response' must be a text, got {response!r:.80}")
    if not _is_texts(answers) or not answers:
        raise BadLine(f"id {ident!r}: field 'answers' must be a list of one text or more, got {answers!r:.80}")
    models, question = row.get("models"), row.get("question")
    if models is not None:
        _check_models(models, ident)
    if question is not None and not isinstance(question, str):
        raise BadLine(f"id {ident!r}: field 'question' must be a text, got {question!r:.80}")
    return Sample(ident, response, answers, _cost(row, ident), None if models is None else tuple(models))


def _parse_json(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # it refuses lone surrogates and byte-order marks; the standard library reads them
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadLine(f"no JSON ({str(error) or type(error).__name__}); write one JSON object a line") from None


def _is_id(ident: object) -> bool:
    if isinstance(ident, float):
        return math.isfinite(ident)
    return isinstance(ident, (str, int)) and not isinstance(ident, bool)


def _check_models(models: object, ident: object) -> None:
    if not _is_texts(models):
        raise BadLine(f"id {ident!r}: field 'models' must be a list of names, got {models!r:.80}")
    seen: set[str] = set()
    for name in models:
        if _key(name) in seen:
            raise BadLine(f"id {ident!r}: field 'models' holds {name!r} twice; names must differ in more than case")
        seen.add(_key(name))


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and set(map(type, value)) <= {str}


def _cost(row: dict[str, Any], ident: object) -> float:
    cost = row.get("cost", 0.0)
    if isinstance(cost, (int, float)) and not isinstance(cost, bool) and 0 <= cost < math.inf:
        try:
            return float(cost)
        except OverflowError:  # an integer too large for a float
            pass
    raise BadLine(
        f"id {ident!r}: field 'cost' must be a finite number, not negative (completion tokens times USD per million), "
        f"got {cost!r:.80}"
    )


def _reported_em(found: RewardBreakdown, settings: RewardSettings) -> float:
    """Exact match. With metric `em`, the published code reports −1 for a wrong answer in a malformed text."""
    wrong = settings.preset == "reference" and found.format < 0 and found.answer is not None and not found.em
    return -1.0 if wrong and settings.metric == "em" else found.em


@lru_cache(maxsize=1)
def _paper_cards() -> list[ModelCard]:
    return load_cards(find_pool(Path("router_r1_six")))


@lru_cache(maxsize=1024)
def _resolver(models: tuple[str, ...] | None) -> Callable[[str], str | None]:
    """Finds the one of `models` that a name in a search means; names of the paper's six may also be aliases."""
    cards = _paper_cards()
    known: dict[str, str] = {}
    for name in [card.name for card in cards] if models is None else models:
        card = resolve(name, cards)
        for alias in (name, *((card.name, *card.aliases) if card else ())):
            known[_key(alias)] = name
    return lambda requested: known.get(_key(requested))


def _key(name: str) -> str:
    return name.strip().casefold()


def _line_blocks(source: BufferedIOBase) -> Iterator[Iterable[bytes]]:
    """Yield the lines that have arrived, as soon as there is one; the last line needs no line end.

    Of a line that is too long, only a beginning is yielded, which is itself too long and so is refused.
    """
    pending: list[bytes] = []  # pieces of a line that has not ended
    size, skipping = 0, False  # bytes pending; whether the rest of the line is left out
    while block := source.read1(_BLOCK):
        if skipping:
            _, end, block = block.partition(b"\n")
            if not end:
                continue
            skipping = False
        complete, end, rest = block.rpartition(b"\n")
        if end:
            yield b"".join((*pending, complete)).split(b"\n")
            pending, size = [], 0
        pending.append(rest)
        size += len(rest)
        if size > _LONGEST_LINE:
            yield [b"".join(pending)]
            pending, size, skipping = [], 0, True
    if last := b"".join(pending):
        yield [last]
