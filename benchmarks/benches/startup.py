"""Start-up: how long the command line takes to answer, and what it must not import for that."""

from __future__ import annotations

import json
import subprocess
import time

from actors.child_process import child_environment, python_command
from benchmarks.benches.figures import Figure, at_most

TARGET_S = 0.7
REPETITIONS = 5
HEAVY = ("torch", "ray", "vllm", "transformers", "wandb", "matplotlib", "aiohttp")
_TIMEOUT_S = 60.0

# What the installed script does, in an interpreter of its own.
_HELP = "import sys; sys.argv = ['router-r1', '--help']; from cluster.cli.app import main; main()"
_REPORT = (
    "import atexit, json, sys; "
    "atexit.register(lambda: sys.stderr.write(json.dumps([m for m in sys.modules if '.' not in m]))); "
)


def help_seconds() -> float:
    """Wall-clock seconds of `router-r1 --help`, interpreter included."""
    started = time.perf_counter()
    _run(_HELP)
    return time.perf_counter() - started


def heavy_imports(arguments: str = "--help") -> list[str]:
    """Those of `HEAVY` that `router-r1 ARGUMENTS` imports."""
    code = _REPORT + _HELP.replace("'--help'", ", ".join(map(repr, arguments.split())))
    imported = json.loads(_run(code).splitlines()[-1])
    return [name for name in HEAVY if name in imported]


def _run(code: str) -> str:
    """What a Python process with that code says on standard error."""
    command = python_command("-c", code)
    env = child_environment()
    return subprocess.run(command, env=env, check=True, capture_output=True, timeout=_TIMEOUT_S, text=True).stderr


def run() -> list[Figure]:
    """Median time of `--help`, and the number of heavy modules it imports."""
    help_seconds()  # once for the disk cache and the byte code
    heavy = heavy_imports()
    return [
        at_most("router-r1 --help", [help_seconds() for _ in range(REPETITIONS)], "s", TARGET_S),
        Figure(f"of {', '.join(HEAVY)} imported by it", float(len(heavy)), "modules", "0", not heavy),
    ]
