"""One root: our packages all come from one folder, or the program ends and names the file that is in the way."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("rewards", "actors", "learner", "benchmarks", "cluster")
_ROOT = Path(__file__).resolve().parents[2]


def check_packages() -> None:
    """End the program with exit code 2 if another file would be imported in place of a package of ours.

    To be called before those packages are imported: the check itself runs no file of the user's.
    """
    if (message := intruder()) is not None:
        sys.stderr.write(f"error: {message}\n")
        sys.exit(2)


def intruder() -> str | None:
    """The message about the first package that Python does not find in our folder; None if all are there."""
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None:
            return f"the package {name!r} is missing from {_ROOT}; install Router-R1 again"
        found = Path(next(iter(spec.submodule_search_locations or [spec.origin or name])))
        if found.resolve() != _ROOT / name:
            return (
                f"Python finds {found} in place of Router-R1's own package {name!r} in {_ROOT}; rename it, or take the "
                f"folder {found.parent} off Python's path: start the program as `router-r1`, not with `python -m`, and "
                "see that PYTHONPATH does not name this folder"
            )
    return None
