"""The run's id: a run keeps it, and no other run has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.runs.run_id import RunIdError, keep_run_id


def test_an_id_is_made_once_and_kept_even_where_the_folder_is_renamed(tmp_path: Path) -> None:
    first = tmp_path / "quickstart"
    first.mkdir()
    made = keep_run_id(first / "run_id", first.name)
    assert made.startswith("quickstart-")
    assert [path.name for path in first.iterdir()] == ["run_id"]
    assert keep_run_id(first / "run_id", first.name) == made
    moved = first.rename(tmp_path / "moved")
    assert keep_run_id(moved / "run_id", moved.name) == made


def test_runs_of_one_name_have_ids_of_their_own(tmp_path: Path) -> None:
    files = [tmp_path / str(number) / "run_id" for number in range(3)]
    for file in files:
        file.parent.mkdir()
    assert len({keep_run_id(file, "quickstart") for file in files}) == 3


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo\n", b"\x00\xff"])
def test_a_damaged_file_is_told_of_and_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "run_id"
    file.write_bytes(content)
    with pytest.raises(RunIdError, match=r"run_id: expected the run's id in one line.*restore it"):
        keep_run_id(file, "quickstart")
    assert file.read_bytes() == content


def test_where_nothing_can_be_written_there_is_no_id(tmp_path: Path) -> None:
    with pytest.raises(RunIdError, match=r"nowhere.*make it writable"):
        keep_run_id(tmp_path / "nowhere" / "run_id", "quickstart")
