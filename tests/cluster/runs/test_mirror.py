"""The mirror: a fetch gives the newest complete checkpoint that was copied, and a broken store ends no run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from made_up import MANIFEST, write_checkpoint

from cluster.config.loading import load_config
from cluster.runs.folder import RunFolder
from cluster.runs.manifest import FILE, STATE, read_manifest
from cluster.runs.mirror import Mirror, MirrorError
from cluster.training.plan import plan_run


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/far/one"
    else:
        yield "memory://far/one"
        store = fsspec.filesystem("memory")
        store.rm("/far", recursive=True)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder.create(load_config("quickstart", [f"run.folder={tmp_path}/runs", "run.name=one"]), "quickstart")
    made.append_metrics({"step": 1, "reward/mean": 0.5})
    with sqlite3.connect(made.ledger_file) as ledger:
        ledger.execute("CREATE TABLE calls (id)")
        ledger.execute("INSERT INTO calls VALUES (7)")
    ledger.close()
    assert made.run_id
    return made


def save(folder: RunFolder, step: int) -> Path:
    with folder.new_checkpoint(step) as stage:
        write_checkpoint(stage)
        (stage / STATE).mkdir()
        (stage / STATE / "learner.json").write_text(f'{{"batches": {step}}}')
        MANIFEST.write(stage)
    return folder.checkpoint(step)


def copy(mirror: Mirror, folder: RunFolder, checkpoint: Path | None) -> None:
    mirror.begin(folder, checkpoint)
    mirror.finish()


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_fetched_is_what_was_copied(url: str, folder: RunFolder, tmp_path: Path) -> None:
    mirror = Mirror(url, keep=2)
    mirror.check()
    assert not mirror.has_run()
    for step in (1, 2, 3):
        copy(mirror, folder, save(folder, step))
    folder.append_metrics({"step": 2, "reward/mean": 0.75})
    copy(mirror, folder, folder.checkpoint(3))
    assert mirror.has_run()
    assert len(mirror._checkpoints()) == 2
    again = Mirror(url).fetch(tmp_path / "fetched")
    assert [path.name for path in again.checkpoints()] == ["step_000003"]
    assert files(again.checkpoint(3)) == files(folder.checkpoint(3))
    assert again.read_metrics() == folder.read_metrics()
    assert again.run_id == folder.run_id
    assert again.read_config() == folder.read_config()
    with sqlite3.connect(again.ledger_file) as ledger:
        assert ledger.execute("SELECT id FROM calls").fetchall() == [(7,)]
    ledger.close()
    assert read_manifest(again.checkpoint(3)).step == MANIFEST.step


def test_a_copy_that_was_broken_off_is_passed_over(url: str, folder: RunFolder, tmp_path: Path) -> None:
    mirror = Mirror(url, keep=3)
    for step in (1, 2, 3):
        copy(mirror, folder, save(folder, step))
    store, root = fsspec.core.url_to_fs(url)
    store.rm(f"{root}/checkpoints/step_000003/{FILE}")  # its manifest would have come last
    store.pipe_file(f"{root}/checkpoints/step_000002/{STATE}/learner.json", b"{")
    again = Mirror(url).fetch(tmp_path / "fetched")
    assert [path.name for path in again.checkpoints()] == ["step_000001"]


def test_a_run_whose_folder_is_lost_is_planned_from_its_mirror(folder: RunFolder, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/far"
    copy(Mirror(f"{url}/one"), folder, save(folder, 2))
    wanted = [f"run.folder={tmp_path}/elsewhere", "run.name=one", "run.if_exists=resume", f"run.mirror={url}"]
    recipe, config, going_on = plan_run("quickstart", wanted, None)
    assert (recipe, going_on) == ("quickstart", True)
    assert RunFolder(tmp_path / "elsewhere" / "one").latest_checkpoint() is not None
    assert not plan_run("quickstart", [*wanted, "run.name=two"], None)[2]
    assert config.run.mirror == url


def test_a_run_is_taken_up_by_its_url(folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path}/far/one"
    copy(Mirror(url), folder, save(folder, 2))
    monkeypatch.chdir(tmp_path / "far")
    _, config, going_on = plan_run(None, ["run.steps=9"], url)
    assert going_on
    assert config.run.steps == 9
    assert config.run.folder / str(config.run.name) == tmp_path / "far" / "runs" / "one"
    with pytest.raises(MirrorError, match="is there already"):
        plan_run(None, [], url)


def test_a_fetch_that_was_broken_off_is_begun_again(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/far/one"
    copy(Mirror(url), folder, save(folder, 2))
    mirror, here = Mirror(url), tmp_path / "here" / "one"
    with monkeypatch.context() as broken:
        broken.setattr(mirror._fs, "get_file", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            mirror.fetch(here)
    assert list(here.parent.iterdir()) == []
    (here.with_name(".one.partial") / "checkpoints").mkdir(parents=True)  # as a kill would leave it
    assert mirror.fetch(here).latest_checkpoint() is not None
    assert list(here.parent.iterdir()) == [here]


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_dry_run_fetches_nothing(folder: RunFolder, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/far"
    copy(Mirror(f"{url}/one"), folder, save(folder, 2))
    wanted = [f"run.folder={tmp_path}/elsewhere", "run.name=one", "run.if_exists=resume", f"run.mirror={url}"]
    assert plan_run("quickstart", wanted, None, look_only=True)[2]
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [("nosuch://a/b", "install fsspec's package"), ("file:///proc/none/b", "can't be written")],
)
def test_what_cant_be_used_is_told_at_once(url: str, message: str) -> None:
    with pytest.raises(MirrorError, match=message):
        Mirror(url).check()


def test_a_store_that_fails_costs_no_run(folder: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mirror = Mirror(f"file://{tmp_path}/far/one")
    mirror.check()
    (tmp_path / "far" / "one").rmdir()
    (tmp_path / "far" / "one").write_text("in the way")
    copy(mirror, folder, save(folder, 1))
    assert "tried again with the next checkpoint" in caplog.text
    (tmp_path / "far" / "one").unlink()
    copy(mirror, folder, save(folder, 2))
    assert mirror.has_run()
    with pytest.raises(MirrorError, match="holds no run"):
        Mirror(f"file://{tmp_path}/nothing").fetch(tmp_path / "fetched")
