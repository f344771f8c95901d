"""The evaluation folder: its questions, every item since it was finished, and the resulting table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.episodes.trajectory import Trajectory
from actors.questions import Question
from actors.whole_files import write_whole
from benchmarks.evaluation.item import NOT_TAKEN, Item, ItemError, Key
from cluster.runs.files import RunFolderError, append_line, hold_lock, mended_lines, writing
from cluster.runs.run_id import FILE_NAME as RUN_ID_FILE
from cluster.runs.trajectory_text import trajectory_report

_EPISODES = 500  # number of episodes whose text is kept; each needs some kilobytes
_BASELINES = "baselines"  # the part of asked.json that a later command may add


class EvaluationFolder:
    """The files of an evaluation.

    `items.jsonl` has one line for each item; `failures.jsonl` has a line for each failed episode. `asked.json`
    identifies the evaluation, so that no other one continues with these items. For people, `questions.jsonl` holds the
    questions, and `episodes.jsonl` the texts of the policy's first episodes.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        """Open a folder, or create it; an incomplete last line, left by a crash, is removed.

        Raises:
            RunFolderError: it holds another evaluation, another process works in it, or it can't be read or written.
        """
        self.path = path
        self.items_file, self.failures_file = path / "items.jsonl", path / "failures.jsonl"
        self.questions_file, self.episodes_file = path / "questions.jsonl", path / "episodes.jsonl"
        self.table_file, self.json_file = path / "table.md", path / "evaluation.json"
        self._asked_file, self._spent_file = path / "asked.json", path / "spent.json"
        self.ledger, self.run_id_file = path / "ledger.sqlite", path / RUN_ID_FILE
        with writing(path, "the evaluation"):
            path.mkdir(parents=True, exist_ok=True)
            taken = f"--out {path}: another process evaluates there; wait for its end, or give another folder"
            self._lock = hold_lock(path / "evaluation.lock", taken)
        self._asked = self._check(asked)
        self.items = self._read_items()
        self._failed: dict[Key, str] = {}
        for number, line in enumerate(mended_lines(self.failures_file), 1):
            try:
                row = json.loads(line)
                self._failed[tuple(row["key"])] = str(row["why"])  # type: ignore[index]
            except (ValueError, TypeError, KeyError) as error:
                raise RunFolderError(f"{self.failures_file}, line {number}: damaged ({error!r}); remove it") from error
        self._episodes = len(mended_lines(self.episodes_file))

    def close(self) -> None:
        """Release the lock, so that another process may work in the folder."""
        self._lock.close()

    @property
    def failures(self) -> dict[Key, str]:
        """The reasons of failed episodes that have no item yet."""
        return {key: why for key, why in self._failed.items() if key not in self.items}

    @property
    def not_taken(self) -> dict[Key, str]:
        """The reasons of episodes that ended because the policy's model refused a prompt."""
        return {
            key: why for key, why in self._failed.items() if key in self.items and self.items[key].stop == NOT_TAKEN
        }

    def lost(self) -> Counter[str]:
        """The number of `failures` in each row."""
        return Counter(row for row, *_ in self.failures)

    def add(self, item: Item) -> None:
        """Write an item, unless the folder has it already."""
        if item.key in self.items:
            return
        with writing(self.items_file, "an item"):
            append_line(self.items_file, item.to_line())
        self.items[item.key] = item

    def keep_episode(self, item: Item, trajectory: Trajectory) -> None:
        """Write an episode's text for people, unless `_EPISODES` are kept already."""
        if item.sample or self._episodes >= _EPISODES:
            return
        report = trajectory_report(trajectory, "episode 1")
        with writing(self.episodes_file, "an episode"):
            append_line(self.episodes_file, json.dumps({"key": item.key, "report": report}, ensure_ascii=False))
        self._episodes += 1

    def keep_questions(self, questions: Sequence[Question]) -> None:
        """Write the questions of the evaluation."""
        rows = ({"id": q.id, "dataset": q.dataset, "question": q.text, "answers": q.answers} for q in questions)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with writing(self.questions_file, "the questions"):
            write_whole(self.questions_file, lines)

    def fail(self, key: Key, why: str) -> None:
        """Write a failed episode; it is played again when the evaluation continues."""
        with writing(self.failures_file, "a failure"):
            append_line(self.failures_file, json.dumps({"key": key, "why": why}, ensure_ascii=False))
        self._failed[key] = why

    def keep_to(self, baselines: Mapping[str, Any]) -> None:
        """Write the facts that identify the baselines, or check that they have not changed.

        They are apart from the other facts because an evaluation may add baselines later.

        Raises:
            RunFolderError: the folder's baselines were made of other replies or questions.
        """
        before = self._asked.setdefault(_BASELINES, dict(baselines))
        self._refuse_other(before, baselines, "baselines of another making")
        with writing(self._asked_file, "what baselines are made of"):
            write_whole(self._asked_file, _json(self._asked))

    def note_spent(self, usd: float) -> None:
        """Write the total spending, for evaluations without a ledger."""
        with writing(self._spent_file, "what is spent"):
            write_whole(self._spent_file, json.dumps({"spent_usd": usd}) + "\n")

    def spent_before(self) -> float:
        """Total USD spent before, from the noted spending or a finished table."""
        return max(_read_spent(file) for file in (self._spent_file, self.json_file))

    def finish(self, table: str, numbers: Mapping[str, Any]) -> None:
        """Write the table and its numbers."""
        with writing(self.table_file, "the table"):
            write_whole(self.table_file, table)
            write_whole(self.json_file, _json(numbers))

    def _check(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The contents of asked.json, which must match `asked`; the file is written if it does not exist."""
        file = self._asked_file
        if not file.is_file():
            if self.items_file.is_file():
                raise RunFolderError(f"--out {self.path}: holds items but no asked.json; restore it, or give another")
            with writing(file, "what is asked"):
                write_whole(file, _json(asked))
            return dict(asked)
        try:
            before = dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunFolderError(f"{file}: damaged ({error}); restore it, or give another --out") from error
        self._refuse_other({k: v for k, v in before.items() if k != _BASELINES}, asked, "another evaluation")
        return before

    def _refuse_other(self, before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
        changed = [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]
        if changed:
            told = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in changed)
            raise RunFolderError(f"--out {self.path}: holds {what} ({told}); give another folder")

    def _read_items(self) -> dict[Key, Item]:
        found: dict[Key, Item] = {}
        for number, line in enumerate(mended_lines(self.items_file), 1):
            try:
                item = Item.from_line(line)
            except ItemError as error:
                raise RunFolderError(f"{self.items_file}, line {number}: {error}; remove it") from error
            if item.key in found:
                raise RunFolderError(f"{self.items_file}, line {number}: {item.key} comes twice; remove one of the two")
            found[item.key] = item
        return found


def _read_spent(file: Path) -> float:
    if not file.is_file():
        return 0.0
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))["spent_usd"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFolderError(f"{file}: damaged ({error}); remove it, it is written again") from error


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"
