"""The record of an evaluation: what the folder of a finished one tells, read without disturbing who works in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from actors.questions import Question
from benchmarks.evaluation.evaluated import Evaluated
from benchmarks.evaluation.item import Item, ItemError
from benchmarks.evaluation.json_numbers import from_json
from benchmarks.evaluation.old_names import evaluation_of_today
from benchmarks.evaluation.pool_table import PoolTable
from benchmarks.evaluation.published import Quoted, published
from benchmarks.evaluation.row_summary import Against, RowSummary
from cluster.runs.files import RunFolderError

Json = Mapping[str, Any]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord(Evaluated):
    """The numbers of `evaluation.json`, by the names of today, and what was asked."""

    path: Path
    asked: Json
    spent_usd: float  # on the calls that this evaluation made

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def read_items(self) -> Iterator[Item]:
        """Every item of the rows, one by one: there may be millions.

        Raises:
            RunFolderError: the file can't be read, or holds something else.
        """
        names, file = {row.name for row in self.rows}, self.path / "items.jsonl"
        for number, line in enumerate(_lines(file), 1):
            try:
                item = Item.from_line(line)
            except ItemError as error:
                raise RunFolderError(
                    f"{file}, line {number}: {error}; remove it, and evaluate again to play it anew"
                ) from error
            if item.row in names:
                yield item

    def read_questions(self) -> dict[tuple[str, str], Question]:
        """Questions by data set and id; none where the evaluation kept no texts."""
        file = self.path / "questions.jsonl"
        return _read(file, _question) if file.is_file() else {}

    def read_episodes(self) -> dict[tuple[str, ...], str]:
        """The episodes that were kept whole, as `cluster.runs.trajectory_text` tells them, by their items' keys."""
        file = self.path / "episodes.jsonl"
        return _read(file, lambda row: (tuple(map(str, row["key"])), str(row["report"]))) if file.is_file() else {}


def is_evaluation(path: Path) -> bool:
    """Whether a folder is an evaluation's, finished or not."""
    return any((path / name).is_file() for name in ("evaluation.json", "asked.json", "items.jsonl"))


def target_of(path: Path) -> str:
    """What an evaluation is of, as far as its folder still tells; empty where it does not."""
    try:
        return str(json.loads((path / "asked.json").read_text(encoding="utf-8"))["target"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read_evaluation(path: Path) -> EvaluationRecord:
    """Read the folder of an evaluation.

    Raises:
        RunFolderError: it is none, it is not finished, or a file of it is damaged.
    """
    if not is_evaluation(path):
        raise RunFolderError(f"{path}: holds no asked.json, so it is no evaluation; give the folder of one")
    file, asked = path / "evaluation.json", path / "asked.json"
    if not file.is_file():
        done = sum(1 for _ in _lines(path / "items.jsonl"))
        raise RunFolderError(
            f"{path}: the evaluation is not finished: {done:,} answers are there, and no table. Finish it by the "
            "command that began it (router-r1 evaluate …): it goes on where it was stopped, and pays for nothing twice"
        )
    try:
        numbers = evaluation_of_today(json.loads(file.read_text(encoding="utf-8")))
        return EvaluationRecord(
            path=path,
            asked=_asked(asked),
            about={str(name): str(text) for name, text in numbers["about"].items()},
            pool=str(numbers["pool"]["fingerprint"]),
            cards=dict(numbers["pool"]["cards"]),
            rows=[from_json(RowSummary, row) for row in numbers["rows"]],
            against={name: from_json(Against, row) for name, row in numbers["against"].items()},
            quoted=[_quoted(row) for row in numbers["published_not_measured"]],
            notes=[str(note) for note in numbers["notes"]],
            spent_usd=float(numbers["spent_usd"]),
            verdicts=[str(verdict) for verdict in numbers.get("verdicts", ())],  # there were none at first
            pools=from_json(PoolTable, numbers["pools"]) if "pools" in numbers else None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{file}: damaged ({error!r}); remove it and evaluate again by the same command, which plays nothing twice"
        ) from error


def _asked(file: Path) -> Json:
    found: Json = json.loads(file.read_text(encoding="utf-8"))
    return {**found, "target": str(found["target"]), "questions": str(found["questions"])}


def _quoted(row: Json) -> Quoted:
    pools = {(each.table, each.label): each.pool for each in published().rows(row["metric"])}
    label, table = str(row["label"]), str(row["table"])
    return Quoted(label, row["metric"], table, pools.get((table, label)), dict(row["scores"]), row["average"])


def _question(row: Json) -> tuple[tuple[str, str], Question]:
    question = Question(str(row["id"]), str(row["dataset"]), str(row["question"]), tuple(map(str, row["answers"])))
    return (question.dataset, question.id), question


def _read(file: Path, entry: Callable[[Json], tuple[_Key, _Value]]) -> dict[_Key, _Value]:
    found: dict[_Key, _Value] = {}
    for number, line in enumerate(_lines(file), 1):
        try:
            key, value = entry(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{file}, line {number}: damaged ({error!r}); remove that line") from error
        found[key] = value
    return found


def _lines(file: Path) -> Iterator[bytes]:
    """The whole lines of a file: a last one without its end is still being written, or was cut short."""
    try:
        with file.open("rb") as content:
            yield from (line for line in content if line.endswith(b"\n") and line.strip())
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunFolderError(f"{file}: can't be read ({error}); make it readable") from error
