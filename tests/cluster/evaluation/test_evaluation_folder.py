"""The evaluation's folder: an error names the damaged file, the line and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.evaluation.folder import EvaluationFolder
from cluster.runs.files import RunFolderError


@pytest.mark.parametrize("line", ["{", "5", '{"why": "x"}'])
def test_a_damaged_line_of_failures_is_named(tmp_path: Path, line: str) -> None:
    EvaluationFolder(tmp_path, {"target": "world"}).close()
    (tmp_path / "failures.jsonl").write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"failures\.jsonl, line 1: damaged .*; remove it"):
        EvaluationFolder(tmp_path, {"target": "world"})
