"""The run folder: its contents, and that no half-written file in it looks complete."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up import make_trajectory, write_checkpoint

from cluster.config.loading import load_config
from cluster.config.settings import Config
from cluster.runs.checkpoint_folder import resolve_checkpoint_folder
from cluster.runs.files import RunFolderError
from cluster.runs.folder import RunFolder
from cluster.runs.record import read_record


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config("quickstart", [f"run.folder={tmp_path}", "run.name=one"])


@pytest.fixture
def folder(config: Config) -> RunFolder:
    return RunFolder.create(config, "quickstart")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], capture_output=True, text=True, timeout=30
    )
    if mounted.returncode:
        pytest.skip(f"no mounting here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True, timeout=30)


def test_the_written_configuration_is_the_run_s(folder: RunFolder, config: Config) -> None:
    assert load_config(str(folder.config_file)) == config


def test_a_name_is_made_of_recipe_and_time(tmp_path: Path) -> None:
    made = RunFolder.create(load_config("quickstart", [f"run.folder={tmp_path}"]), "some/where/mine.yaml")
    assert made.path.parent == tmp_path
    assert made.path.name.startswith("mine-20")


def test_a_folder_in_use_is_refused(folder: RunFolder, config: Config) -> None:
    with pytest.raises(RunFolderError, match=r"not empty; give another run\.name"):
        RunFolder.create(config, "quickstart")


def test_a_folder_of_a_run_killed_as_it_was_made_is_taken(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "one"
    (path / "checkpoints").mkdir(parents=True)
    (path / "run.lock").touch()
    (path / ".config.yaml.partial").write_text("half")
    assert RunFolder.create(config, "quickstart").config_file.is_file()


def test_a_run_that_goes_on_keeps_what_it_was_told_then(folder: RunFolder, config: Config) -> None:
    longer = load_config(str(folder.config_file), ["run.steps=77"])
    first = folder.config_file.read_text()
    folder.replace_config(load_config(str(folder.config_file)))
    assert not list(folder.path.glob("config.*.yaml"))
    folder.replace_config(longer)
    assert load_config(str(folder.config_file)).run.steps == 77
    assert (folder.path / "config.1.yaml").read_text() == first
    assert folder.config_file.read_text().startswith("# Resolved from recipe 'quickstart'")


def test_leftovers_that_are_no_folders_are_removed_too(folder: RunFolder) -> None:
    (folder.checkpoints_path / ".nfs0001").write_text("x")
    (folder.checkpoints_path / ".step_000002.partial").mkdir()
    path = folder.path
    del folder._lock
    folder._lock = None
    RunFolder.reopen(path)
    assert list((path / "checkpoints").iterdir()) == []


def test_a_checkpoint_that_was_passed_over_is_set_aside(folder: RunFolder) -> None:
    for step in (2, 4):
        with folder.new_checkpoint(step) as stage:
            write_checkpoint(stage)
        folder.append_metrics({"step": step, "reward/mean": 0.5})
    folder.cut_after(2)
    assert folder.checkpoints() == [folder.checkpoint(2)]
    assert (folder.checkpoints_path / "damaged_step_000004").is_dir()
    assert [row["step"] for row in folder.read_metrics()] == [2]


def test_a_full_disk_leaves_no_half_line(small_disk: Path) -> None:
    folder = RunFolder.create(load_config("quickstart", [f"run.folder={small_disk}", "run.name=full"]), "quickstart")
    folder.append_metrics({"step": 1, "reward/mean": 0.5})
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(b"x" * (2 << 20))
    row = {"step": 2} | {f"rollout/call_share/expert-{n}": 0.1 for n in range(500)}  # longer than the rest of the page
    with pytest.raises(RunFolderError, match="the disk is full"):
        folder.append_metrics(row)
    filler.unlink()
    folder.append_metrics({"step": 2, "reward/mean": 0.25})
    assert [row["reward/mean"] for row in folder.read_metrics()] == [0.5, 0.25]


def test_a_place_that_cant_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    config = load_config("quickstart", [f"run.folder={tmp_path / 'file'}", "run.name=x"])
    with pytest.raises(RunFolderError, match=r"file/x: the run folder can't be written.*set run\.folder"):
        RunFolder.create(config, "quickstart")


def test_no_secret_of_the_environment_reaches_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k3y-that-is-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "k3y-that-is-secret")
    made = RunFolder.create(load_config("quickstart", [f"run.folder={tmp_path}"]), "quickstart")
    assert "k3y-that-is-secret" not in made.config_file.read_text(encoding="utf-8")


def test_metrics_are_a_line_a_step(folder: RunFolder) -> None:
    folder.append_metrics({"step": 1, "reward/mean": 0.5, "rollout/call_share/meta/llama-3": 0.25})
    folder.append_metrics({"step": 2, "reward/mean": float("nan")})
    lines = folder.metrics_file.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == folder.read_metrics()
    assert folder.read_metrics()[1] == {"step": 2, "reward/mean": None}


def test_a_line_cut_short_by_a_crash_is_not_read(folder: RunFolder) -> None:
    folder.append_metrics({"step": 1, "reward/mean": 0.5})
    with folder.metrics_file.open("a", encoding="utf-8") as file:
        file.write('{"step": 2, "rewa')
    assert [row["step"] for row in folder.read_metrics()] == [1]


def test_an_undeclared_metric_is_refused(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="reward/meen"):
        folder.append_metrics({"step": 1, "reward/meen": 0.5})


def test_a_trajectory_is_readable(folder: RunFolder) -> None:
    path = folder.write_trajectories(10, "train", [make_trajectory()])
    assert path.name == "step_000010.md"
    text = path.read_text(encoding="utf-8")
    parts = ("q-1", "who wrote it ?", "Ada Lovelace", "candidates:\nbard", "poet-7b", "'bard'", "0.000125 USD",
             "1.250 s", "status: ok", "it is Ada .", "answer: Ada", "0.9000", "no_think", "version 3")  # fmt: skip
    for part in parts:
        assert part in text


def test_trajectories_of_another_label_stay(folder: RunFolder) -> None:
    folder.write_trajectories(3, "train", [make_trajectory()])
    text = folder.write_trajectories(3, "eval", [make_trajectory()]).read_text(encoding="utf-8")
    assert "# train 1" in text
    assert "# eval 1" in text


def test_text_that_is_no_unicode_and_fences_do_no_harm(folder: RunFolder) -> None:
    odd = make_trajectory(question="lone \ud800 surrogate", reply="```\n# not a heading\n```` \udfff")
    text = folder.write_trajectories(1, "train", [odd]).read_text(encoding="utf-8")
    assert "\\ud800" in text
    assert "`````text\n```\n# not a heading" in text


def test_a_checkpoint_appears_whole(folder: RunFolder) -> None:
    with folder.new_checkpoint(7) as stage:
        write_checkpoint(stage)
        assert not folder.checkpoint(7).exists()
        assert folder.latest_checkpoint() is None
    assert folder.latest_checkpoint() == folder.checkpoint(7)
    assert (folder.checkpoint(7) / "model.safetensors").is_file()
    assert list(folder.checkpoints_path.iterdir()) == [folder.checkpoint(7)]


def test_a_failure_leaves_nothing(folder: RunFolder) -> None:
    def fail(stage: Path) -> None:
        write_checkpoint(stage)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), folder.new_checkpoint(7) as stage:
        fail(stage)
    assert list(folder.checkpoints_path.iterdir()) == []


def test_ctrl_c_leaves_nothing(folder: RunFolder) -> None:
    def interrupt(stage: Path) -> None:
        write_checkpoint(stage)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), folder.new_checkpoint(7) as stage:
        interrupt(stage)
    assert list(folder.checkpoints_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error_and_earlier_checkpoints_stay(small_disk: Path) -> None:
    folder = RunFolder.create(load_config("quickstart", [f"run.folder={small_disk}", "run.name=full"]), "quickstart")
    with folder.new_checkpoint(1) as stage:
        write_checkpoint(stage)
    with (
        pytest.raises(RunFolderError, match=r"step_000002: the disk is full.*free space"),
        folder.new_checkpoint(2) as stage,
    ):
        (stage / "model.safetensors").write_bytes(b"x" * (2 << 20))
    assert folder.checkpoints() == [folder.checkpoint(1)]
    assert list(folder.checkpoints_path.iterdir()) == [folder.checkpoint(1)]
    folder.write_summary({"ok": True})


def test_a_file_beyond_the_limit_is_one_clear_error(folder: RunFolder) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(RunFolderError, match="the disk is full"), folder.new_checkpoint(2) as stage:
            (stage / "model.safetensors").write_bytes(b"x" * (1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(folder.checkpoints_path.iterdir()) == []


def test_a_full_disk_leaves_the_last_summary(small_disk: Path) -> None:
    folder = RunFolder.create(load_config("quickstart", [f"run.folder={small_disk}", "run.name=full"]), "quickstart")
    folder.write_summary({"steps": 1})
    with pytest.raises(RunFolderError, match="disk is full"):
        folder.write_summary({"steps": "x" * (2 << 20)})
    assert json.loads(folder.summary_file.read_text(encoding="utf-8")) == {"steps": 1}
    assert not list(folder.path.glob(".*"))


def test_a_safetensors_writer_that_runs_out_of_space_is_understood(small_disk: Path) -> None:
    """The writer's error is not an OSError."""
    numpy_writer = pytest.importorskip("safetensors.numpy")
    import numpy as np

    folder = RunFolder.create(load_config("quickstart", [f"run.folder={small_disk}", "run.name=full"]), "quickstart")
    with pytest.raises(RunFolderError, match="disk is full"), folder.new_checkpoint(1) as stage:
        numpy_writer.save_file({"w": np.zeros(1 << 20, dtype=np.float32)}, stage / "model.safetensors")
    assert list(folder.checkpoints_path.iterdir()) == []


_KILLED = """
import sys, time
from pathlib import Path
from cluster.runs.folder import RunFolder
from made_up import write_checkpoint
with RunFolder(Path(sys.argv[1])).new_checkpoint(2) as stage:
    write_checkpoint(stage)
    print("staged", flush=True)
    time.sleep(60)
"""


def test_a_kill_in_mid_checkpoint_leaves_nothing_that_looks_whole(folder: RunFolder) -> None:
    with folder.new_checkpoint(1) as stage:
        write_checkpoint(stage)
    victim = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(folder.path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"staged\n"
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=30)
    assert folder.checkpoints() == [folder.checkpoint(1)]
    assert resolve_checkpoint_folder(folder.path)[0] == folder.checkpoint(1)
    [leftover] = folder.checkpoints_path.glob(".*")
    with pytest.raises(RunFolderError, match="never finished"):
        resolve_checkpoint_folder(leftover)
    with folder.new_checkpoint(2) as stage:  # the files of the killed process are in nobody's way
        assert list(stage.iterdir()) == []
        write_checkpoint(stage)
    assert not list(folder.checkpoints_path.glob(".*"))


def test_a_step_is_saved_once(folder: RunFolder) -> None:
    with folder.new_checkpoint(1) as stage:
        write_checkpoint(stage)
    with pytest.raises(RunFolderError, match="exists already"), folder.new_checkpoint(1):
        pass
    assert folder.checkpoints() == [folder.checkpoint(1)]


def test_pruning_keeps_the_newest(folder: RunFolder) -> None:
    for step in (2, 10, 100):
        with folder.new_checkpoint(step) as stage:
            write_checkpoint(stage)
    assert folder.prune(2) == [folder.checkpoint(2)]
    assert folder.checkpoints() == [folder.checkpoint(10), folder.checkpoint(100)]
    assert folder.prune(2) == []
    with pytest.raises(ValueError, match="keep=0"):
        folder.prune(0)


def test_somebody_s_copies_are_no_checkpoints_and_stay(folder: RunFolder) -> None:
    for step in (2, 4):
        with folder.new_checkpoint(step) as stage:
            write_checkpoint(stage)
        folder.append_metrics({"step": step, "eval/em": 0.5, "eval/version": step})
    copies = [folder.checkpoints_path / name for name in ("step_000002-copy", "step_000004.bak")]
    for copy in copies:
        copy.mkdir()
    (folder.path / "trajectories").mkdir(exist_ok=True)
    note = folder.path / "trajectories" / "step_000009-mine.md"
    note.write_text("mine", encoding="utf-8")
    assert folder.latest_checkpoint() == folder.checkpoint(4)
    assert folder.prune(1) == [folder.checkpoint(2)]
    folder.cut_after(4)
    assert all(path.exists() for path in [*copies, note])


def test_run_and_checkpoint_are_told_apart(folder: RunFolder, tmp_path: Path) -> None:
    with folder.new_checkpoint(4) as stage:
        write_checkpoint(stage)
    assert resolve_checkpoint_folder(folder.path) == (folder.checkpoint(4), folder.path)
    assert resolve_checkpoint_folder(folder.checkpoint(4)) == (folder.checkpoint(4), folder.path)
    alone = tmp_path / "elsewhere" / "deep" / "policy"
    write_checkpoint(alone)
    assert resolve_checkpoint_folder(alone) == (alone, None)


def test_a_run_is_found_from_its_checkpoint_by_a_relative_path(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with folder.new_checkpoint(4) as stage:
        write_checkpoint(stage)
    monkeypatch.chdir(folder.checkpoints_path)
    _, run = resolve_checkpoint_folder(Path("step_000004"))
    assert run is not None
    assert run.resolve() == folder.path.resolve()


def test_what_is_no_checkpoint_is_refused_with_the_reason(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no such folder"):
        resolve_checkpoint_folder(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="is a file"):
        resolve_checkpoint_folder(folder.config_file)
    with pytest.raises(RunFolderError, match="no checkpoint yet"):
        resolve_checkpoint_folder(folder.path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match=r"no config\.json"):
        resolve_checkpoint_folder(tmp_path / "empty")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: (p / "model.safetensors").unlink(), "without weights"),
        (lambda p: (p / "tokenizer.json").unlink(), "without a tokenizer"),
        (lambda p: os.truncate(p / "model.safetensors", (p / "model.safetensors").stat().st_size - 3), "promises"),
        (lambda p: os.truncate(p / "model.safetensors", 20), "cut short"),
        (lambda p: os.truncate(p / "model.safetensors", 0), "damaged"),
        (lambda p: (p / "model.safetensors").write_bytes(b"\x04" + b"\0" * 7 + b"nope"), "damaged"),
        (
            lambda p: (p / "model.safetensors.index.json").write_text('{"weight_map": {"w": "lost.safetensors"}}'),
            "lost.safetensors",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage, words: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "policy"
    write_checkpoint(path)
    damage(path)
    with pytest.raises(RunFolderError, match=words):
        resolve_checkpoint_folder(path)


def test_the_shipped_policy_is_a_whole_checkpoint() -> None:
    from benchmarks.world.coldstart import CHECKPOINT

    assert resolve_checkpoint_folder(CHECKPOINT) == (CHECKPOINT, None)


def test_saved_tells_what_there_is(folder: RunFolder, tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "never").saved() == "nothing was saved yet"
    assert "no checkpoint" in folder.saved()
    folder.append_metrics({"step": 1, "reward/mean": 0.5})
    with folder.new_checkpoint(1) as stage:
        write_checkpoint(stage)
    assert "1 steps" in folder.saved()
    assert str(folder.checkpoint(1)) in folder.saved()


def test_numbers_json_cant_hold_become_null(folder: RunFolder) -> None:
    import numpy as np

    folder.write_summary({"a": float("inf"), "b": [np.float32(0.5), np.int64(3)], "c": Path("x")})
    assert json.loads(folder.summary_file.read_text(encoding="utf-8")) == {"a": None, "b": [0.5, 3], "c": "x"}


@pytest.mark.parametrize("line", ["{}", "5", '{"step": "one"}'])
def test_a_row_of_metrics_without_its_step_is_named(folder: RunFolder, line: str) -> None:
    folder.metrics_file.write_text(f'{{"step": 0}}\n{line}\n', encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl: damaged \(row 2 has no step\)"):
        read_record(folder.path)
