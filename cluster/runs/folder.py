"""The run folder: everything that a run leaves on disk, each file complete or absent."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from actors.episodes.trajectory import Trajectory
from actors.whole_files import is_unfinished, staged_folder, write_whole
from benchmarks.evaluation.json_numbers import to_json
from cluster.config.settings import Config
from cluster.runs.files import RunFolderError, hold_lock, remove, writing
from cluster.runs.metrics import undeclared
from cluster.runs.run_id import FILE_NAME as RUN_ID
from cluster.runs.run_id import keep_run_id
from cluster.runs.trajectory_text import trajectory_report

logger = logging.getLogger(__name__)

_LEFTOVER_S = 10.0


def default_name(recipe: str) -> str:
    """Recipe and UTC time, such as `quickstart-20260131-235959`."""
    return f"{Path(recipe).stem}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"


class RunFolder:
    """`config.yaml`, `metrics.jsonl`, `ledger.sqlite`, `trajectories/`, `checkpoints/`, `summary.json` and a plot.

    The process that writes into it holds its lock. The system releases the lock when the process ends, even by a crash.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.summary_file = path / "summary.json"
        self.plot_file = path / "progress.png"
        self.log_file = path / "log.txt"
        self.ledger_file = path / "ledger.sqlite"
        self.checkpoints_path = path / "checkpoints"
        self.stalls_path = path / "stalls"  # stacks of processes that hung
        self._lock: IO[str] | None = None  # held as long as this object exists

    @classmethod
    def create(cls, config: Config, recipe: str, command: str = "train") -> RunFolder:
        """Make the folder `run.folder/run.name` and write the resolved configuration into it, for `command`.

        Raises:
            RunFolderError: the folder is not empty, or can't be written.
        """
        path = config.run.folder / (config.run.name or default_name(recipe))
        folder = cls(path)
        with writing(path, "the run folder"):
            if path.is_dir() and not _is_begun(path):
                raise RunFolderError(f"run folder {path}: is not empty; give another run.name, or move it away")
            path.mkdir(parents=True, exist_ok=True)
            folder._take_lock()
            folder.checkpoints_path.mkdir(exist_ok=True)
            folder._write_config(config, f"# Resolved from recipe {recipe!r}; {command} it again with\n"
                                 f"# router-r1 {command} {folder.config_file} run.name=NEW\n")  # fmt: skip
        return folder

    def _write_config(self, config: Config, header: str) -> None:
        dumped = yaml.safe_dump(config.dump(), sort_keys=False, allow_unicode=True)
        write_whole(self.config_file, header + dumped)

    def replace_config(self, config: Config) -> None:
        """Write the configuration that the run is resumed with; the one before is kept as `config.1.yaml`, ….

        Raises:
            RunFolderError: the file can't be written.
        """
        if config.dump() == self.read_config():
            return
        with writing(self.path, "the configuration"):
            number = 1 + len(list(self.path.glob("config.*.yaml")))
            text = self.config_file.read_text(encoding="utf-8")
            write_whole(self.path / f"config.{number}.yaml", text)
            header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
            self._write_config(config, header)

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """Open the folder of a stopped run, and remove the checkpoint that it was writing then.

        Raises:
            RunFolderError: it is no run folder, or another process works in it.
        """
        folder = cls(path)
        if not folder.config_file.is_file():
            raise RunFolderError(f"{path}: holds no config.yaml, so it is no run; give the folder of one (runs/NAME)")
        with writing(path, "the run folder"):
            folder._take_lock()
            until = time.monotonic() + _LEFTOVER_S  # processes of the stopped run may still write there
            while (left := [path for path in folder.checkpoints_path.glob(".*") if not remove(path)]) and (
                time.monotonic() < until
            ):
                time.sleep(0.5)
            if left:
                logger.warning("%s can't be removed; it is harmless, but takes up space", left[0])
        return folder

    @property
    def run_id(self) -> str:
        """The id of the run in ledgers and trackers; a resumed run keeps it."""
        with writing(self.path, "the run's id"):
            return keep_run_id(self.path / RUN_ID, self.path.name)

    def read_config(self) -> dict[str, Any]:
        """The configuration that the run was started or last resumed with.

        Raises:
            RunFolderError: the file can't be read.
        """
        try:
            values = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise RunFolderError(f"{self.config_file}: can't be read ({error}); restore it from a backup") from error
        return values if isinstance(values, dict) else {}

    def _take_lock(self) -> None:
        """Lock the folder, because only one process at a time may work in it."""
        self._lock = hold_lock(
            self.path / "run.lock",
            f"{self.path}: another process trains in it now; wait for it, stop it, or give another run.name",
        )

    def cut_after(self, step: int) -> None:
        """Remove metrics and trajectories of the steps after `step`, which are taken again; -1 means all steps."""
        rows = [row for row in self.read_metrics() if row["step"] <= step]
        with writing(self.metrics_file, "metrics"):
            write_whole(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows))
        for file in step_files(self.path / "trajectories", ".md"):
            if step_of(file) > step:
                file.unlink()
        for path in self.checkpoints():
            if step_of(path) > step:  # damaged, or the run would have resumed from it
                aside = path.with_name(f"damaged_{path.name}")
                remove(aside)
                path.rename(aside)
                logger.warning("%s is damaged and was set aside as %s", path, aside.name)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append a step's metrics, `{"step": n, key: value, …}`; numbers that are not finite become null.

        Raises:
            ValueError: the row has no step, or a key that `cluster.runs.metrics` does not declare.
            RunFolderError: the file can't be written.
        """
        if unknown := undeclared(key for key in row if key != "step"):
            raise ValueError(f"metrics {unknown} are not declared; declare them once, in cluster/runs/metrics.py")
        if "step" not in row:
            raise ValueError(f"a row of metrics needs its 'step'; got {sorted(row)}")
        line = json.dumps(to_json(row)) + "\n"
        with writing(self.metrics_file, "metrics"):
            whole = self.metrics_file.stat().st_size if self.metrics_file.exists() else 0
            try:
                with self.metrics_file.open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self.metrics_file, whole)  # a full disk may have taken half a line
                raise

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows written so far; a last line cut short by a crash is left out.

        Raises:
            RunFolderError: the file is damaged.
        """
        if not self.metrics_file.is_file():
            return []
        try:
            lines = self.metrics_file.read_text(encoding="utf-8").split("\n")
            rows = [json.loads(line) for line in lines[:-1]]
            for number, row in enumerate(rows, 1):
                if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                    raise ValueError(f"row {number} has no step")
        except ValueError as error:
            raise RunFolderError(
                f"{self.metrics_file}: damaged ({error}); remove that line, or restore the file"
            ) from error
        return rows

    def write_trajectories(self, step: int, label: str, trajectories: Sequence[Trajectory]) -> Path:
        """Append trajectories to the step's file for people; their headings begin with `label` (`train`, `eval`).

        Raises:
            RunFolderError: the file can't be written.
        """
        path = self.path / "trajectories" / f"step_{step:06d}.md"
        texts = [trajectory_report(t, f"{label} {number}") for number, t in enumerate(trajectories, 1)]
        with writing(path, "trajectories"):
            path.parent.mkdir(exist_ok=True)
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(texts))
        return path

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is, or will be."""
        return self.checkpoints_path / f"step_{step:06d}"

    def how_to_go_on(self) -> str:
        """What was saved, and the command that continues from it."""
        return f"{self.saved()}; to go on:\n  router-r1 train --resume {self.path}"

    @contextmanager
    def new_checkpoint(self, step: int) -> Iterator[Path]:
        """A temporary folder to fill, which becomes the checkpoint of `step` by one rename when the block ends.

        If the block raises, the folder is removed.

        Raises:
            RunFolderError: the checkpoint exists already, or the disk is full or can't be written.
        """
        final = self.checkpoint(step)
        if final.exists():
            raise RunFolderError(f"checkpoint {final}: exists already; a step is saved once")
        try:
            with writing(final, "the checkpoint"), staged_folder(final) as stage:
                yield stage
        except BaseException:
            # Writers may have made temporary folders beside this one; their names contain that of the checkpoint.
            for leftover in self.checkpoints_path.glob(f".*{final.name}*"):
                remove(leftover)
            raise

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, the oldest step first, without anything else in the folder, such as a user's copies."""
        return [path for path in step_files(self.checkpoints_path) if path.is_dir()]

    def latest_checkpoint(self) -> Path | None:
        return next(reversed(self.checkpoints()), None)

    def prune(self, keep: int, heavy: str = "") -> list[Path]:
        """Remove all checkpoints but the newest `keep` and the one with the best evaluation; return those removed.

        `heavy` is a folder in each checkpoint that only the newest two keep: a run resumes from the newest or, if that
        is damaged, from the one before.
        """
        if keep < 1:
            raise ValueError(f"keep={keep} would leave no checkpoint; keep 1 or more")
        whole = self.checkpoints()
        old = [path for path in whole[:-keep] if path != self.best_checkpoint()]
        # Renamed first: a checkpoint that is half removed must not look complete.
        doomed = [(path, path.with_name(f".{path.name}.removed")) for path in old]
        if heavy:
            kept = [path for path in whole[:-2] if path not in old and (path / heavy).is_dir()]
            doomed += [(path / heavy, path.with_name(f".{path.name}.{heavy}")) for path in kept]
        for path, aside in doomed:
            try:
                path.rename(aside)
            except OSError as error:
                logger.warning("%s is older than run.keep_checkpoints and can't be removed: %s", path, error)
            else:
                if not remove(aside):
                    logger.warning("%s can't be removed; somebody has it open", aside)
        return old

    def best_checkpoint(self) -> Path | None:
        """The checkpoint whose step had the best exact match on the held-out questions, if any was evaluated."""
        evaluations = [row for row in self.read_metrics() if row.get("eval/em") is not None]
        scores = {row.get("eval/version", row["step"]): row["eval/em"] for row in evaluations}
        evaluated = [(scores[step], step, path) for path in self.checkpoints() if (step := step_of(path)) in scores]
        return max(evaluated)[2] if evaluated else None

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, completely or not at all.

        Raises:
            RunFolderError: the file can't be written.
        """
        with writing(self.summary_file, "the summary"):
            write_whole(self.summary_file, json.dumps(to_json(summary), indent=2) + "\n")

    def saved(self) -> str:
        """One line on what was saved, for the user who stopped the run."""
        if not self.path.is_dir():
            return "nothing was saved yet"
        steps, latest = max((row["step"] for row in self.read_metrics()), default=0), self.latest_checkpoint()
        return f"{self.path} holds metrics of {steps} steps and " + (
            f"checkpoint {latest}" if latest else "no checkpoint"
        )


def step_files(folder: Path, suffix: str = "") -> list[Path]:
    """The files and folders of a folder that are named after a step, the oldest step first."""
    name = re.compile(rf"step_\d+{re.escape(suffix)}")
    return sorted((path for path in folder.glob(f"step_*{suffix}") if name.fullmatch(path.name)), key=step_of)


def step_of(path: Path) -> int:
    """The step of a checkpoint folder or of a file of trajectories."""
    return int(path.stem.removeprefix("step_"))


def _is_begun(path: Path) -> bool:
    """Whether a folder is empty, or a run was killed while it made the folder."""
    names = {child.name for child in path.iterdir() if not is_unfinished(child)}
    return names <= {"run.lock", "checkpoints"} and not any((path / "checkpoints").glob("*"))
