"""The evaluation folder: what was asked, every item as it came to an end, and the table made of them."""

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

_EPISODES = 500  # that are kept whole: some kilobytes each
_BASELINES = "baselines"  # the part of asked.json that may come later


class EvaluationFolder:
    """`items.jsonl` holds a line for each item and none twice, `failures.jsonl` one for each episode that came to no
    end; `asked.json` says of which evaluation they are, so that no other one goes on with them. For people,
    `questions.jsonl` holds what was asked, and `episodes.jsonl` the policy's first episodes whole."""

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        """Open a folder, or make it; a line that a crash cut short is cut off.

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
            taken = f"--out {path}: another process evaluates there; wait for it, or give another"
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
        """Let another process work in it."""
        self._lock.close()

    @property
    def failures(self) -> dict[Key, str]:
        """Why episodes came to no end that have no item by now either."""
        return {key: why for key, why in self._failed.items() if key not in self.items}

    @property
    def not_taken(self) -> dict[Key, str]:
        """Why the policy's model did not take a prompt, of the episodes that ended so."""
        return {
            key: why for key, why in self._failed.items() if key in self.items and self.items[key].stop == NOT_TAKEN
        }

    def lost(self) -> Counter[str]:
        """How many of each row these are."""
        return Counter(row for row, *_ in self.failures)

    def add(self, item: Item) -> None:
        """Keep an item, unless it is there already."""
        if item.key in self.items:
            return
        with writing(self.items_file, "an item"):
            append_line(self.items_file, item.to_line())
        self.items[item.key] = item

    def keep_episode(self, item: Item, trajectory: Trajectory) -> None:
        """Keep an episode whole, for people to read, unless many are kept already."""
        if item.sample or self._episodes >= _EPISODES:
            return
        report = trajectory_report(trajectory, "episode 1")
        with writing(self.episodes_file, "an episode"):
            append_line(self.episodes_file, json.dumps({"key": item.key, "report": report}, ensure_ascii=False))
        self._episodes += 1

    def keep_questions(self, questions: Sequence[Question]) -> None:
        """Keep what was asked, as a file of questions."""
        rows = ({"id": q.id, "dataset": q.dataset, "question": q.text, "answers": q.answers} for q in questions)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with writing(self.questions_file, "the questions"):
            write_whole(self.questions_file, lines)

    def fail(self, key: Key, why: str) -> None:
        """Note an episode that came to no end; it is played again when the evaluation goes on."""
        with writing(self.failures_file, "a failure"):
            append_line(self.failures_file, json.dumps({"key": key, "why": why}, ensure_ascii=False))
        self._failed[key] = why

    def keep_to(self, baselines: Mapping[str, Any]) -> None:
        """Note what baselines are made of, which an evaluation may come to later; or see that it still is so.

        Raises:
            RunFolderError: they were made of something else.
        """
        before = self._asked.setdefault(_BASELINES, dict(baselines))
        self._refuse_other(before, baselines, "baselines of another making")
        with writing(self._asked_file, "what baselines are made of"):
            write_whole(self._asked_file, _json(self._asked))

    def note_spent(self, usd: float) -> None:
        """Keep what is spent in all, where no ledger does."""
        with writing(self._spent_file, "what is spent"):
            write_whole(self._spent_file, json.dumps({"spent_usd": usd}) + "\n")

    def spent_before(self) -> float:
        """USD spent in all, as far as it was noted or a table tells of it."""
        return max(_read_spent(file) for file in (self._spent_file, self.json_file))

    def finish(self, table: str, numbers: Mapping[str, Any]) -> None:
        """Write the table and its numbers."""
        with writing(self.table_file, "the table"):
            write_whole(self.table_file, table)
            write_whole(self.json_file, _json(numbers))

    def _check(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked by what the file says, which is made where there is none."""
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
        raise RunFolderError(f"{file}: damaged ({error}); remove it, it is written anew") from error


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"
