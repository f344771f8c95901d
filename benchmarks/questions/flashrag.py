"""The seven QA sets that Router-R1 uses, by name, from the FlashRAG collection on the Hugging Face hub."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

from actors.question_files import FORMATS
from actors.questions import Columns, QuestionError, QuestionRow

COLLECTION = "RUC-NLPIR/FlashRAG_datasets"
# The collection's splits of each set. Evaluations use the test split, or the dev split if there is no test split.
SETS: dict[str, tuple[str, ...]] = {
    "nq": ("train", "dev", "test"),
    "triviaqa": ("train", "dev", "test"),
    "popqa": ("test",),
    "hotpotqa": ("train", "dev"),
    "2wikimultihopqa": ("train", "dev"),
    "musique": ("train", "dev"),
    "bamboogle": ("test",),
}
_PATIENCE_S = 10.0  # seconds to wait for the hub's first answer


def split_of(name: str, split: str | None) -> str:
    """The split of a set to read: `split` if given, else test if the set has it, else dev.

    Raises:
        QuestionError: the set has no such split; or it is not one of the seven, and no split is given.
    """
    splits = SETS.get(name)
    if split is None:
        if splits is None:
            raise QuestionError(
                f"question source {name!r}: is none of {', '.join(SETS)}; for another set give NAME/SPLIT"
            )
        return "test" if "test" in splits else "dev"
    if splits is not None and split not in splits:
        raise QuestionError(f"question source '{name}/{split}': {name} has the splits {', '.join(splits)}")
    return split


def flashrag_rows(name: str, split: str, limit: int | None) -> Iterator[QuestionRow]:
    """Rows of one split in the collection's order.

    With a limit the split is streamed, so that only its first part is fetched. Ids start with the set's name, because
    each set of the collection numbers its questions from 0. If the hub can't be reached, the rows come from the cache
    of `datasets`.

    Raises:
        QuestionError: the hub can't be reached and the cache has no copy, or the hub has no such set or split.
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
    # The bases of the hub's own error belong to its HTTP library, which differs between versions.
    except (OSError, ValueError, DatasetsError, *HfHubHTTPError.__bases__) as error:
        fault = f"the hub can't be reached ({unreachable}), and no copy is in the cache" if unreachable else str(error)
        raise QuestionError(
            f"question source {source!r}: can't load it from {COLLECTION}: {fault}. Give a local file in its place "
            f"({FORMATS}; other names as FILE:id=COLUMN:question=COLUMN:answers=COLUMN), or go online once to fill "
            "the cache"
        ) from error


def _hub_fault() -> str | None:
    """The reason why the hub can't be reached; None if it answers.

    Asked first, because `datasets` without a network retries for 24 s.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(COLLECTION, timeout=_PATIENCE_S)
    except (
        Exception
    ) as error:  # the hub's HTTP library, and so its errors, differ between versions; the caller reports them
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let `datasets` read only its cache."""
    from datasets import config

    before, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before
