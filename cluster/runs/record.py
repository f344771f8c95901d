"""The record of a run, read from its folder, whether the run is finished, going on or was stopped."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from benchmarks.evaluation.json_numbers import from_json
from benchmarks.evaluation.means import Evaluation
from benchmarks.evaluation.old_names import summary_of_today
from cluster.runs.files import RunFolderError
from cluster.runs.folder import RunFolder

State = Literal["finished", "going on", "stopped"]
Row = Mapping[str, Any]

_RECIPE = re.compile(r"# Resolved from recipe '(.*)'; (\w+) it again")
_FIELDS = {field.name for field in fields(Evaluation)}


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The contents of a run folder. `evaluations` are those of the summary (`before`, `after`, `random`, …); without a
    summary, the first and the last in the metrics."""

    folder: RunFolder
    recipe: str
    command: str  # `train` or `sft`
    config: Mapping[str, Any]
    rows: Sequence[Row]  # of metrics, by step
    summary: Mapping[str, Any]  # empty until the run ends
    state: State
    evaluations: Mapping[str, Evaluation]

    @property
    def name(self) -> str:
        return self.folder.path.resolve().name

    @property
    def step(self) -> int:
        """The last step that was learnt from."""
        return max((int(row["step"]) for row in self.rows), default=0)

    @property
    def trained(self) -> Sequence[Row]:
        """The rows of training steps; the row of step 0 holds only the first evaluation."""
        return [row for row in self.rows if row["step"] > 0]

    @property
    def evaluated(self) -> Sequence[Row]:
        """The rows with an evaluation in them."""
        return [row for row in self.rows if row.get("eval/em") is not None]

    @property
    def held_out(self) -> int:
        """How many questions an evaluation asks: as many as the first one did or, without it, as configured."""
        if "before" in self.evaluations:
            return self.evaluations["before"].questions
        return int(setting(self.config, "data.eval_questions") or 0)

    @property
    def usd(self) -> float | None:
        """USD spent on candidates; None if neither summary nor metrics have it."""
        told = [row["cost/usd_total"] for row in self.rows if row.get("cost/usd_total") is not None]
        found = self.summary.get("usd_total", told[-1] if told else None)
        return None if found is None else float(found)

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds of the run, without the time between stop and resume; None if nothing has them."""
        told = [row["time/elapsed_s"] for row in self.rows if row.get("time/elapsed_s") is not None]
        found = (self.summary.get("seconds") or {}).get("total", told[-1] if told else None)
        return None if found is None else float(found)


def read_record(path: Path) -> RunRecord:
    """Read a run folder, without changing it.

    Raises:
        RunFolderError: it is no run folder, or a file in it is damaged.
    """
    if not path.is_dir():
        raise RunFolderError(f"{path}: no such folder; give the folder of a run (runs/NAME)")
    folder = RunFolder(path)
    if not folder.config_file.is_file():
        raise RunFolderError(f"{path}: holds no config.yaml, so it is no run; give the folder of one (runs/NAME)")
    config, rows, summary = folder.read_config(), folder.read_metrics(), _summary(folder)
    head = _RECIPE.search(folder.config_file.read_text(encoding="utf-8"))
    questions = int(setting(config, "data.eval_questions") or 0)
    return RunRecord(
        folder=folder,
        recipe=head[1] if head else "",
        command=head[2] if head else "train",
        config=config,
        rows=rows,
        summary=summary,
        state=_state(folder, summary, rows),
        evaluations=_summarised(summary) or _measured(rows, questions),
    )


def setting(config: Mapping[str, Any], path: str) -> Any:
    """The value of a dotted key, such as `learner.optimizer.lr`; None where an older run has no such key."""
    value: Any = config
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def row_evaluation(row: Row, questions: int) -> Evaluation:
    """The evaluation in a row of metrics. Metrics do not have the number of `questions`."""
    prefix = "eval/call_share/"
    names = ("em", "f1", "cost_usd_per_1k_questions", "calls_per_question")
    means = {name: row.get(f"eval/{name}") for name in names}
    shares = {key.removeprefix(prefix): share for key, share in row.items() if key.startswith(prefix)}
    return from_json(Evaluation, {**means, "questions": questions, "call_share": shares})


def _summary(folder: RunFolder) -> dict[str, Any]:
    if not folder.summary_file.is_file():
        return {}
    remedy = "remove it, or restore it from a backup"
    try:
        found = json.loads(folder.summary_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{folder.summary_file}: damaged ({error}); {remedy}") from error
    if not isinstance(found, dict):
        raise RunFolderError(f"{folder.summary_file}: holds {type(found).__name__}, not a summary; {remedy}")
    return summary_of_today(found)


def _summarised(summary: Mapping[str, Any]) -> dict[str, Evaluation]:
    """The summary's evaluations."""
    return {
        name: from_json(Evaluation, value)
        for name, value in summary.items()
        if isinstance(value, dict) and value.keys() >= _FIELDS - {"void"}
    }


def _measured(rows: Sequence[Row], questions: int) -> dict[str, Evaluation]:
    found = {}
    for row in rows:
        if row.get("eval/em") is not None:
            before = row.get("eval/version", row["step"]) == 0
            found["before" if before else "after"] = row_evaluation(row, questions)
    return found


def _state(folder: RunFolder, summary: Mapping[str, Any], rows: Sequence[Row]) -> State:
    if _is_held(folder.path / "run.lock"):
        return "going on"
    last = max((row["step"] for row in rows), default=0)
    return "finished" if summary and summary.get("steps", last) >= last else "stopped"


def _is_held(lock: Path) -> bool:
    """Whether a process works in the folder. To find out, this takes a shared lock for a moment."""
    if not lock.is_file():
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
