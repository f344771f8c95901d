"""The mirror: a run's checkpoints, copied in the background to any URL that fsspec knows, and fetched back."""

from __future__ import annotations

import logging
import sqlite3
import tempfile
import threading
from pathlib import Path, PurePosixPath

from actors.errors import ExplainedError
from actors.whole_files import staged_folder
from cluster.runs.folder import RunFolder, step_of
from cluster.runs.manifest import FILE as MANIFEST
from cluster.runs.manifest import ResumeError, read_manifest
from cluster.runs.run_id import FILE_NAME as RUN_ID

logger = logging.getLogger(__name__)

_QUIET_S, _FINISH_S = 5.0, 600.0
_CHECKPOINTS = "checkpoints"


class MirrorError(ExplainedError, RuntimeError):
    """A mirror that can't be used; the message names its URL and the remedy."""


class Mirror:
    """A copy of a run: configuration, metrics, ledger and its newest checkpoints.

    Object stores have no atomic rename, so a checkpoint's manifest is copied last: without it, it is not complete.
    """

    def __init__(self, url: str, keep: int = 1) -> None:
        """`url` is the run's own, such as `s3://bucket/runs/NAME`; `keep` checkpoints stay there.

        Raises:
            MirrorError: fsspec does not know the kind of URL, or the package for it is missing.
        """
        from fsspec.core import url_to_fs

        self.url = url
        self._keep = keep
        try:
            self._fs, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise MirrorError(
                f"mirror {url}: {error}; install fsspec's package for it (s3fs, gcsfs, adlfs, …) beside this program, "
                "or give another URL, such as file:///shared/runs"
            ) from error
        self._wanted: tuple[RunFolder, Path | None] | None = None
        self._copying: threading.Thread | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Make the mirror's folder.

        Raises:
            MirrorError: the folder can't be made.
        """
        try:
            self._fs.makedirs(self._root, exist_ok=True)
        except Exception as error:  # each kind of store has errors of its own
            raise MirrorError(
                f"mirror {self.url}: can't be written ({error}); check its name and your rights"
            ) from error

    def has_run(self) -> bool:
        """Whether the mirror holds a run to fetch.

        Raises:
            MirrorError: the mirror can't be read.
        """
        try:
            return bool(self._fs.exists(f"{self._root}/config.yaml"))
        except Exception as error:  # each kind of store has errors of its own
            raise MirrorError(f"mirror {self.url}: can't be read ({error}); check its name and your rights") from error

    def begin(self, folder: RunFolder, checkpoint: Path | None) -> None:
        """Copy the run in the background, after the copy under way; of the calls that wait, only the last counts."""
        with self._lock:
            self._wanted = (folder, checkpoint)
            if self._copying is None:
                self._copying = threading.Thread(target=self._copy_all, name="mirror", daemon=True)
                self._copying.start()

    def finish(self) -> None:
        """Wait until the copies are complete, for ten minutes at most."""
        copying = self._copying
        if copying is not None:
            copying.join(_QUIET_S)
            if copying.is_alive():
                logger.warning("waiting for the copy to %s; Ctrl-C leaves it incomplete", self.url)
                copying.join(_FINISH_S)
            if copying.is_alive():
                logger.warning("mirror %s: not up to date after %g s; the run folder has it all", self.url, _FINISH_S)

    def fetch(self, path: Path) -> RunFolder:
        """Copy the run to a folder at `path`, with its newest complete checkpoint; copy all of it or nothing.

        Raises:
            MirrorError: there is no run, it can't be read, or `path` is not empty.
        """
        if path.exists() and any(path.iterdir()):
            raise MirrorError(f"{path} is there already; go on with it, or move it away to fetch {self.url}")
        config_name = RunFolder(path).config_file.name
        try:
            names = {PurePosixPath(name).name for name in self._fs.ls(self._root, detail=False)}
            if config_name not in names:
                raise FileNotFoundError(f"no {config_name}")
            with staged_folder(path) as stage:
                folder = RunFolder(stage)
                folder.checkpoints_path.mkdir()
                self._fetch_checkpoint(folder)
                for name in sorted(names - {_CHECKPOINTS}):
                    self._fs.get_file(f"{self._root}/{name}", str(folder.path / name))
        except MirrorError:
            raise
        except Exception as error:
            raise MirrorError(f"mirror {self.url}: holds no run that can be fetched ({error})") from error
        return RunFolder(path)

    def _fetch_checkpoint(self, folder: RunFolder) -> None:
        """Fetch the newest complete checkpoint, if there is one."""
        for remote in reversed(self._checkpoints()):
            name = PurePosixPath(remote).name
            stage, final = folder.checkpoints_path / f".{name}.partial", folder.checkpoints_path / name
            self._fs.get(f"{remote}/", f"{stage}/", recursive=True)
            try:
                read_manifest(stage)
            except ResumeError as error:
                logger.warning("mirror %s: %s is skipped: %s", self.url, name, error)
                continue
            stage.rename(final)
            return

    def _checkpoints(self) -> list[str]:
        """The checkpoints that have a manifest, the oldest first."""
        parent = f"{self._root}/{_CHECKPOINTS}"
        if not self._fs.exists(parent):
            return []
        found = [str(name).rstrip("/") for name in self._fs.ls(parent, detail=False)]
        steps = [name for name in found if PurePosixPath(name).name.startswith("step_")]
        return sorted(name for name in steps if self._fs.exists(f"{name}/{MANIFEST}"))

    def _copy_all(self) -> None:
        while True:
            with self._lock:
                wanted, self._wanted = self._wanted, None
                if wanted is None:
                    self._copying = None
                    return
            try:
                self._copy(*wanted)
            except Exception as error:  # each kind of store has errors of its own; the run goes on without the copy
                logger.warning(
                    "mirror %s: not up to date, and tried again with the next checkpoint: %s", self.url, error
                )

    def _copy(self, folder: RunFolder, checkpoint: Path | None) -> None:
        if checkpoint is not None and checkpoint.is_dir():
            remote = f"{self._root}/{_CHECKPOINTS}/{checkpoint.name}"
            files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
            for file in sorted(files, key=lambda file: file == checkpoint / MANIFEST):
                self._put(file, f"{remote}/{file.relative_to(checkpoint).as_posix()}")
        with tempfile.TemporaryDirectory(prefix="router-r1-mirror-") as scratch:
            for file in (folder.ledger_file, folder.metrics_file, folder.summary_file, folder.path / RUN_ID):
                if file.is_file():
                    self._put(_snapshot(file, Path(scratch)), f"{self._root}/{file.name}")
        for file in sorted(folder.path.glob("config*.yaml"), key=lambda file: file == folder.config_file):
            self._put(file, f"{self._root}/{file.name}")
        for old in self._checkpoints()[: -self._keep]:
            self._fs.rm(old, recursive=True)
        if checkpoint is not None:
            logger.info("mirror %s: has step %d", self.url, step_of(checkpoint))

    def _put(self, file: Path, remote: str) -> None:
        self._fs.makedirs(remote.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(file), remote)


def _snapshot(file: Path, scratch: Path) -> Path:
    """A file to copy as it is at one moment, even if others write to it meanwhile."""
    copy = scratch / file.name
    if file.suffix == ".sqlite":
        with sqlite3.connect(file) as source, sqlite3.connect(copy) as target:
            source.backup(target)
        source.close()
        target.close()
    elif file.suffix == ".jsonl":
        copy.write_text("".join(file.read_text(encoding="utf-8").rpartition("\n")[:2]), encoding="utf-8")
    else:
        return file
    return copy
