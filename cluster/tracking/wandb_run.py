"""Tracking: sends a run's metrics to Weights & Biases, online or into the run folder."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from actors.errors import ExplainedError
from cluster.config.settings import Config, TrackingSettings
from cluster.runs.metrics import METRICS, undeclared

_log = logging.getLogger(__name__)

KEY_VARIABLE = "WANDB_API_KEY"
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_.-]")
START_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 60.0


class TrackingError(ExplainedError, RuntimeError):
    """W&B can't be used; the message says why, and the remedy, and never holds the key."""


def tracking_mode(settings: TrackingSettings) -> Literal["online", "offline", "disabled"]:
    """The mode; `auto` means online if WANDB_API_KEY is set, else offline.

    Raises:
        TrackingError: the mode is online, and there is no key.
    """
    key = bool(os.environ.get(KEY_VARIABLE, "").strip())
    if settings.wandb == "auto":
        return "online" if key else "offline"
    if settings.wandb == "online" and not key:
        raise TrackingError(f"tracking.wandb=online needs {KEY_VARIABLE}; set it, or tracking.wandb=offline")
    return settings.wandb


class Tracker:
    """One W&B run. Use it as a context manager, so that it is closed with the right exit code."""

    def __init__(
        self, config: Config, folder: Path, run_id: str | None = None, *, start_timeout_s: float = START_TIMEOUT_S
    ) -> None:
        """Start tracking the run in `folder`, under the folder's name. A W&B run with the same id is continued.

        Raises:
            TrackingError: the key is missing or wrong, or W&B does not answer within `start_timeout_s` seconds.
        """
        self.mode = tracking_mode(config.tracking)
        self.folder = folder
        self._run: Any = None
        if self.mode != "disabled":
            self._run = _start(config, folder, run_id, self.mode, start_timeout_s)
            self._run.define_metric("step")
            for key in METRICS:
                self._run.define_metric(key, step_metric="step")

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Log a step's metrics; numbers that are not finite are left out.

        Raises:
            ValueError: `cluster.runs.metrics` does not declare a key.
        """
        if unknown := undeclared(key for key in row if key != "step"):
            raise ValueError(f"metrics {unknown} are not declared; declare them once, in cluster/runs/metrics.py")
        if self._run is not None:
            known = {key: value for key, value in row.items() if value is not None and math.isfinite(value)}
            self._run.log({**known, "step": step})

    def finish(self, summary: Mapping[str, Any] | None = None, *, exit_code: int = 0) -> None:
        """Record the summary and close the run, within a deadline; data that could not be sent stays on disk."""
        run, self._run = self._run, None
        if run is None:
            return
        if summary:
            run.summary.update(dict(summary))
        import wandb

        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            _log.warning(
                "W&B took more than %g s to close; the data it has not sent is in %s: `wandb sync` sends it",
                FINISH_TIMEOUT_S,
                self.folder / "wandb",
            )
        finally:
            wandb.teardown(exit_code)  # ends W&B's process; before, the last numbers may not be on disk

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish(exit_code=0 if kind is None else 1)


def _start(config: Config, folder: Path, run_id: str | None, mode: str, timeout_s: float) -> Any:
    import wandb
    from wandb.errors import Error

    settings = wandb.Settings(
        silent=True,
        console="off",
        save_code=False,
        disable_code=True,
        disable_git=True,  # a remote's URL may hold a token
        init_timeout=timeout_s,
        login_timeout=timeout_s,
        finish_timeout=FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
    )
    try:
        return wandb.init(
            project=config.tracking.project,
            entity=config.tracking.entity,
            name=folder.name,
            id=None if run_id is None else _NOT_IN_IDS.sub("-", run_id),
            resume=None if run_id is None else "allow",
            dir=str(folder),
            config=config.dump(),
            mode=mode,  # type: ignore[arg-type]
            settings=settings,
        )
    except (Error, ValueError, TimeoutError) as error:
        wandb.teardown(1)
        raise TrackingError(
            f"W&B did not start ({type(error).__name__}: {_without_key(str(error))}); "
            f"check {KEY_VARIABLE} and the network, or set tracking.wandb=offline"
        ) from None


def _without_key(text: str) -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    text = " ".join(text.split())
    return text.replace(key, "***") if key else text
