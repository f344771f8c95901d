"""Question sets: the embedded world's, JSONL files, and the seven QA sets that Router-R1 uses."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from actors.questions import Question, QuestionError, load_questions, parse_question
from benchmarks.world.facts import World

WORLD_QUESTIONS = 4000  # of a `world:` source, where no limit is given
FLASHRAG = "RUC-NLPIR/FlashRAG_datasets"  # the collection that Router-R1 trains and evaluates on


def load_source(source: str, *, limit: int | None, two_hop_share: float) -> list[Question]:
    """Questions of one source: `world:train`, `world:heldout`, `flashrag:NAME/SPLIT`, or a JSONL file.

    Raises:
        QuestionError: the source is unknown, missing or malformed.
    """
    if source in ("world:train", "world:heldout"):
        split = "train" if source == "world:train" else "heldout"
        drawn = World().questions(split, 0, two_hop_share)  # type: ignore[arg-type]
        return [question for question, _ in itertools.islice(drawn, limit or WORLD_QUESTIONS)]
    if source.startswith("flashrag:"):
        return _load_flashrag(source.removeprefix("flashrag:"), limit)
    if ":" in source and not Path(source).is_file():
        raise QuestionError(
            f"question source {source!r}: unknown; use world:train, world:heldout, flashrag:NAME/SPLIT or a JSONL file"
        )
    return load_questions(Path(source), limit)


def load_sources(
    sources: Sequence[str], *, two_hop_share: float, limit: int | None = None, total: int | None = None
) -> list[Question]:
    """Questions of several sources, taken in turn: `limit` of each at most, `total` in all.

    Raises:
        QuestionError: a source is unknown, missing or malformed.
    """
    if total == 0:
        return []
    each = min((n for n in (limit, total) if n is not None), default=None)
    parts = [load_source(source, limit=each, two_hop_share=two_hop_share) for source in sources]
    mixed = [question for row in itertools.zip_longest(*parts) for question in row if question is not None]
    return mixed[:total]


def _load_flashrag(name: str, limit: int | None) -> list[Question]:
    config, slash, split = name.partition("/")
    if not slash:
        raise QuestionError(f"question source 'flashrag:{name}': give NAME/SPLIT, such as flashrag:nq/train")
    from datasets import load_dataset

    try:
        rows = load_dataset(FLASHRAG, config, split=split, streaming=limit is not None)
    except (OSError, ValueError) as error:
        raise QuestionError(f"question source 'flashrag:{name}': can't load it from {FLASHRAG}: {error}") from error
    taken = itertools.islice(rows, limit)
    return [
        parse_question(
            {"id": row["id"], "dataset": config, "question": row["question"], "answers": list(row["golden_answers"])},
            f"flashrag:{name}, row {number}",
        )
        for number, row in enumerate(taken, 1)
    ]
