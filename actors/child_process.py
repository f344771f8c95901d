"""Child processes: their Python imports our packages from this process's root, never a user's file of the same name.

`python -m` and `python -c` put the working directory first on their path. A user's `benchmarks.py` there would then
run in place of our package. So every Python process of ours is started with this command line and this environment;
`actors.ray_start` does the same for Ray's workers.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the folder that holds our packages
SAFE_PATH = {"PYTHONSAFEPATH": "1"}  # has the effect of `-P`, also on the child's children


def python_command(*arguments: str) -> list[str]:
    """The command line of a Python process with these arguments, such as `-m` and a module."""
    return [sys.executable, "-P", *arguments]


def child_environment() -> dict[str, str]:
    """This process's environment, for a child."""
    return os.environ | child_variables()


def child_variables() -> dict[str, str]:
    """The variables with which a child and its own children import our packages."""
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    named = [folder for folder in before if folder]  # an empty entry is the working directory
    path = os.pathsep.join(dict.fromkeys([*own_path(), *named]))
    return SAFE_PATH | ({"PYTHONPATH": path} if path else {})


def own_path() -> list[str]:
    """The folder that a child needs on its path for our packages; empty if Python searches it anyway."""
    return [] if Path(sysconfig.get_path("purelib")).resolve() == ROOT else [str(ROOT)]


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started inside, then restore them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
