"""The seven QA sets that Router-R1 uses, by name, out of the FlashRAG collection on the Hugging Face hub."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

from actors.question_files import FORMATS
from actors.questions import Columns, QuestionError, QuestionRow

COLLECTION = "RUC-NLPIR/FlashRAG_datasets"
# Splits that the collection has of them; where there is a test split it is evaluated on, else the dev split.
SETS: dict[str, tuple[str, ...]] = {
    "nq": ("train", "dev", "test"),
    "triviaqa": ("train", "dev", "test"),
    "popqa": ("test",),
    "hotpotqa": ("train", "dev"),
    "2wikimultihopqa": ("train", "dev"),
    "musique": ("train", "dev"),
    "bamboogle": ("test",),
}
_PATIENCE_S = 10.0  # for the hub's first answer


def split_of(name: str, split: str | None) -> str:
    """The split to take of a set: the one asked for, or test, else dev.

    Raises:
        QuestionError: the set has no such split, or is none of the seven and no split is named.
    """
    splits = SETS.get(name)
    if split is None:
        if splits is None:
            raise QuestionError(f"question source {name!r}: none of {', '.join(SETS)}; of others give NAME/SPLIT")
        return "test" if "test" in splits else "dev"
    if splits is not None and split not in splits:
        raise QuestionError(f"question source '{name}/{split}': {name} has the splits {', '.join(splits)}")
    return split


def flashrag_rows(name: str, split: str, limit: int | None) -> Iterator[QuestionRow]:
    """Rows of one split in the collection's order; streamed, so not all of it is fetched, where a limit is given.

    Ids are prefixed by the set's name, since every set of the collection counts its own from 0. Where the hub can't
    be reached, a copy in the cache of `datasets` serves.

    Raises:
        QuestionError: the hub can't be reached and there is no copy, or it has no such set or split.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    source = f"{name}/{split}"
    columns = Columns(answers="golden_answers", name=name)
    unreachable = _hub_fault()
    try:
        with _offline() if unreachable else contextlib.nullcontext():
            rows = load_dataset(COLLECTION, name, split=split, streaming=limit is not None and not unreachable)
        for number, row in enumerate(itertools.islice(rows, limit), 1):
            values = {**row, "id": f"{name}-{row.get('id')}"}
            yield QuestionRow(f"{COLLECTION}, {source}, row {number}", values, columns)
    # The bases of the hub's own error are those of its HTTP library, which differs by version.
    except (OSError, ValueError, DatasetsError, *HfHubHTTPError.__bases__) as error:
        fault = f"the hub can't be reached ({unreachable}), and no copy is in the cache" if unreachable else str(error)
        raise QuestionError(
            f"question source {source!r}: can't load it from {COLLECTION}: {fault}. Give a local file in its place "
            f"({FORMATS}; other names as FILE:id=COLUMN:question=COLUMN:answers=COLUMN), or go online once to fill "
            "the cache"
        ) from error


def _hub_fault() -> str | None:
    """Why the hub can't be reached; None if it answers. `datasets` alone retries for 24 s without a network."""
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(COLLECTION, timeout=_PATIENCE_S)
    except Exception as error:  # the HTTP library behind it, and so its errors, differ by version; all are told
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let `datasets` look into its cache alone."""
    from datasets import config

    before, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before
