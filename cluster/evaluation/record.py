"""The record of an evaluation: what the folder of a finished one tells, read without disturbing who works in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from actors.json_numbers import from_json
from actors.questions import Question
from benchmarks.evaluation.item import Item, ItemError
from benchmarks.evaluation.old_names import evaluation_of_today
from benchmarks.evaluation.published import PublishedMetric, PublishedRow, published
from benchmarks.evaluation.row_summary import Against, Ended, Part, RowSummary
from benchmarks.evaluation.statistics import Comparison, Interval
from cluster.runs.files import RunFolderError

Json = Mapping[str, Any]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Quoted:
    """A published row as the evaluation shows it: never measured here."""

    label: str
    metric: PublishedMetric
    table: str  # of the paper
    pool: tuple[str, ...] | None  # the paper's candidates; None where the paper's tables have no such row any more
    scores: Mapping[str, float]  # by data set


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """The numbers of `evaluation.json`, by the names of today, and what was asked."""

    path: Path
    asked: Json
    about: Mapping[str, str]
    pool: str  # fingerprint
    cards: Mapping[str, Json]  # what the fingerprint is of, by candidate
    rows: Sequence[RowSummary]
    against: Mapping[str, Against]
    quoted: Sequence[Quoted]
    notes: Sequence[str]
    spent_usd: float  # on the calls that this evaluation made
    verdicts: Sequence[str] = ()  # of evaluations written since there are any
    pools: Json | None = None  # the same policy with other candidates, as `evaluation.json` has it

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def sets(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row.by_set))

    @property
    def ranked(self) -> list[RowSummary]:
        """The rows, those that are right most often first, the cheaper of those alike."""
        return sorted(self.rows, key=lambda row: (-row.em.mean, row.usd_per_1k))

    @property
    def policies(self) -> list[RowSummary]:
        """The rows that a policy played."""
        return [row for row in self.rows if row.name.startswith("policy")]

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
            asked=json.loads(asked.read_text(encoding="utf-8")),
            about={str(name): str(text) for name, text in numbers["about"].items()},
            pool=str(numbers["pool"]["fingerprint"]),
            cards=dict(numbers["pool"]["cards"]),
            rows=[_row(row) for row in numbers["rows"]],
            against={name: _against(row) for name, row in numbers["against"].items()},
            quoted=[_quoted(row) for row in numbers["published_not_measured"]],
            notes=[str(note) for note in numbers["notes"]],
            spent_usd=float(numbers["spent_usd"]),
            verdicts=[str(verdict) for verdict in numbers.get("verdicts", ())],
            pools=numbers.get("pools"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{file}: damaged ({error!r}); remove it and evaluate again by the same command, which plays nothing twice"
        ) from error


def _row(row: Json) -> RowSummary:
    return RowSummary(
        **{
            **{name: from_json(value) for name, value in row.items()},
            "em": _interval(row["em"]),
            "f1": None if row["f1"] is None else _interval(row["f1"]),
            "spread": row["spread"],
            "ended": Ended(**row["ended"]),
            "by_set": {name: _part(part) for name, part in row["by_set"].items()},
            "by_hops": {int(hops): _part(part) for hops, part in row["by_hops"].items()},
            "pass_at": {int(k): share for k, share in row["pass_at"].items()},
        }
    )


def _part(part: Json) -> Part:
    return Part(**{**part, "em": _interval(part["em"]), "ended": Ended(**part["ended"])})


def _interval(value: Json) -> Interval:
    mean, low, high = (float(from_json(value[name])) for name in ("mean", "low", "high"))
    return Interval(mean, low, high, int(value["questions"]))


def _against(row: Json) -> Against:
    comparison = row["comparison"]
    return Against(
        **{**row, "comparison": Comparison(**{**comparison, "difference": _interval(comparison["difference"])})}
    )


def quote(row: PublishedRow) -> Quoted:
    """A published row, as it ships."""
    return Quoted(row.label, row.metric, row.table, row.pool, row.scores)


def _quoted(row: Json) -> Quoted:
    pools = {(each.table, each.label): each.pool for each in published().rows(row["metric"])}
    label, table = str(row["label"]), str(row["table"])
    return Quoted(label, row["metric"], table, pools.get((table, label)), dict(row["scores"]))


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
