"""Logs: the process of a command writes them to the run's file, and warnings to the terminal."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from cluster.session.one_root import PACKAGES

# Read by the libraries when they are imported, here and in every process that Ray starts from here.
_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_SILENT": "true",
}
_NOISY = (
    "vllm",
    "ray",
    "deepspeed",
    "DeepSpeed",
    "transformers",
    "wandb",
    "asyncio",
    "urllib3",
    "aiohttp",
    "matplotlib",
)
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def quiet_libraries() -> None:
    """Keep libraries from writing to the terminal; environment variables that the user has set stay."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def log_to_terminal() -> None:
    """Send warnings to standard error, through rich, which does not break the line of live progress."""
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    handler.setLevel(logging.WARNING)
    root = logging.getLogger()
    root.handlers = [h for h in root.handlers if not isinstance(h, RichHandler)] + [handler]
    for name in PACKAGES:
        logging.getLogger(name).setLevel(logging.INFO)


def log_to_file(path: Path) -> logging.Handler:
    """Also write all our logs and the libraries' warnings to a file; close the handler with `stop_logging`."""
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.getLogger().addHandler(handler)
    return handler


def stop_logging(handler: logging.Handler) -> None:
    """Remove a handler and close its file."""
    logging.getLogger().removeHandler(handler)
    handler.close()
