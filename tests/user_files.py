"""A user's folder in which everything is named like our packages: whatever of it is run says so, and raises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cluster.session.one_root import PACKAGES

Form = Literal["files", "packages"]

_LIST = "was-run"
_CODE = f"""
from pathlib import Path
with Path({{folder!r}}, {_LIST!r}).open("a") as was_run:
    was_run.write("{{name}}\\n")
raise RuntimeError("the user's own {{name}} was run")
"""


def write_user_files(folder: Path, form: Form, names: Sequence[str] = PACKAGES) -> None:
    """Fill the folder."""
    for name in names:
        path = folder / f"{name}.py" if form == "files" else folder / name / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_CODE.format(folder=str(folder), name=name), encoding="utf-8")


def were_run(folder: Path) -> list[str]:
    """The names of those that were run."""
    path = folder / _LIST
    return path.read_text(encoding="utf-8").split() if path.exists() else []
