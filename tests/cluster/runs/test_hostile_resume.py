"""An attacker who can write into a run folder or its mirror can't run code on the machine that resumes the run.

A hostile pickle replaces each file that a resume reads, and stands under each name that a library would load a pickle
from. The program resumes without engines and ranks: `tests/learner/test_gang_ppo.py` tests the files of the ranks.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hostile import hostile_files
from made_up import make_trajectory
from test_manifest import MANIFEST
from tiny_llama import save_tiny_llama

from actors.checkpoint_loading import CheckpointError, read_tokenizer
from actors.ledger.database import connect, database_url, open_tables
from actors.ledger.entry import LedgerError
from cluster.config.loading import ConfigError, load_config
from cluster.runs.files import RunFolderError
from cluster.runs.folder import RunFolder
from cluster.runs.group_file import GROUPS, read_groups, write_groups
from cluster.runs.manifest import FILE, STATE, ResumeError
from cluster.runs.mirror import Mirror, MirrorError
from cluster.runs.policy_checkpoints import check_folder
from cluster.runs.run_id import RunIdError
from cluster.training.checkpoints import newest_manifest
from cluster.training.loop import _reopen
from cluster.training.plan import plan_run

pytestmark = pytest.mark.thorough

STEP = f"checkpoints/step_{MANIFEST.step:06d}"

# The files that a resume reads, each with its error or warning if a pickle has replaced it.
READ = {
    "config.yaml": "not YAML",
    "run_id": "expected the run's id in one line",
    "metrics.jsonl": "damaged",
    "ledger.sqlite": "ledger",
    f"{STEP}/{FILE}": "is damaged",
    f"{STEP}/{GROUPS}": "are played again",
    f"{STEP}/{STATE}/rng_0.pt": "not router-r1's",
    f"{STEP}/{STATE}/learner.json": "not router-r1's",
    f"{STEP}/config.json": "its model can't be loaded",
    f"{STEP}/model.safetensors": "half-written or damaged",
    f"{STEP}/tokenizer.json": "its tokenizer can't be loaded",
    f"{STEP}/tokenizer_config.json": "its tokenizer can't be loaded",
    f"{STEP}/groups.pickle": "is of an earlier version and is not read",
    f"{STEP}/model.safetensors.index.json": "half-written or damaged",
}
# Names that some library may read, but that our checkpoints do not have or that a resume does not need.
OTHERS = {
    "weights": (
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
    ),
    "adapter": ("adapter_config.json", "adapter_model.bin"),
    "words": ("tokenizer.model", "tokenizer.pkl", "vocab.json", "vocab.pkl", "vocab.txt", "merges.txt"),
    "tokenizer's old files": ("added_tokens.json", "special_tokens_map.json"),
    "templates": ("chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json"),
    "generation": ("generation_config.json", "custom_generate/generate.py"),
    "DeepSpeed": (f"{STATE}/mp_rank_00_model_states.pt", f"{STATE}/latest", f"{STATE}/rng_0.pkl"),
}


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marker") / "marker"


@pytest.fixture(scope="module")
def hostile(marker: Path) -> dict[str, bytes]:
    return hostile_files(marker)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after a checkpoint, which is also the policy that the run starts from."""
    import torch

    from learner.checkpoint import save_rng_state

    path = tmp_path_factory.mktemp("runs") / "one"
    config = load_config("quickstart", [f"run.folder={path.parent}", f"run.name={path.name}"])
    folder = RunFolder.create(config, "quickstart")
    folder.append_metrics({"step": MANIFEST.step, "reward/mean": 0.5})
    engine = connect(database_url(path))
    open_tables(engine, create=True)
    engine.dispose()  # else SQLite's write-ahead log is copied with the run, and is read in place of a planted file
    assert folder.run_id
    checkpoint = folder.checkpoint(MANIFEST.step)
    save_tiny_llama(checkpoint, tied=True, seed=0)
    (checkpoint / STATE).mkdir()
    save_rng_state(checkpoint / STATE / "rng_0.pt", torch.device("cpu"))
    (checkpoint / STATE / "learner.json").write_text('{"batches": 7}')
    write_groups({"8-0": [make_trajectory()]}, checkpoint)
    MANIFEST.write(checkpoint)
    return path


@pytest.fixture
def run(whole: Path, tmp_path: Path, marker: Path) -> Iterator[Path]:
    yield shutil.copytree(whole, tmp_path / "runs" / "one")
    if marker.exists():
        marker.rmdir()


def readers(path: Path) -> list[Callable[[], object]]:
    """Every function that reads a file of the run folder in a resume, each by itself."""
    import torch

    from learner.checkpoint import load_rng_state, read_facts
    from learner.policy import load_model

    folder, checkpoint = RunFolder(path), path / STEP
    overrides = [f"run.folder={path.parent}", f"run.name={path.name}"]
    return [
        lambda: plan_run(None, [], str(path)),
        lambda: _reopen(load_config("quickstart", overrides), force=True),
        lambda: folder.run_id,
        lambda: folder.cut_after(MANIFEST.step),
        lambda: open_tables(connect(database_url(path)), create=True),
        lambda: newest_manifest(folder),
        lambda: read_groups(checkpoint),
        lambda: load_rng_state(checkpoint / STATE / "rng_0.pt", torch.device("cpu")),
        lambda: read_facts(checkpoint / STATE / "learner.json"),
        lambda: check_folder(checkpoint),
        lambda: load_model(checkpoint, torch.float32),
        lambda: read_tokenizer(checkpoint),
    ]


def read_all(path: Path, caplog: pytest.LogCaptureFixture) -> str:
    """The explained errors and the warnings while a run folder is read; any other error is raised."""
    caplog.clear()
    said = []
    for read in readers(path):
        try:
            read()
        except (CheckpointError, ConfigError, LedgerError, ResumeError, RunFolderError, RunIdError) as error:
            said.append(str(error))
        except ValueError as error:  # a rank's, which the gang makes a LearnerError
            if "not router-r1's" not in str(error):
                raise
            said.append(str(error))
    return "\n".join([*said, *(r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)])


def plant(path: Path, name: str, content: bytes) -> None:
    """Put a file into a run folder, and its size into the manifest, as an attacker with write access would."""
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(content)
    if name != f"{STEP}/{FILE}":
        MANIFEST.write(path / STEP)


def test_a_run_that_nobody_touched_is_read_without_a_word(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_all(run, caplog) == ""
    assert list(read_groups(run / STEP)) == ["8-0"]


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, "pickle") for name in READ] + [(f"{STEP}/{STATE}/rng_0.pt", form) for form in ("torch", "old torch")],
)
def test_a_hostile_file_is_told_and_never_run(
    run: Path, name: str, form: str, hostile: dict[str, bytes], marker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if name.endswith("groups.pickle"):
        (run / STEP / GROUPS).unlink()
    plant(run, name, hostile[form])
    assert READ[name] in read_all(run, caplog)
    assert not marker.exists()


@pytest.mark.parametrize("kind", OTHERS)
def test_a_hostile_file_of_another_name_is_never_run(
    run: Path, kind: str, hostile: dict[str, bytes], marker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in OTHERS[kind]:
        plant(run, f"{STEP}/{name}", hostile["torch" if name.endswith((".bin", ".pt")) else "pickle"])
    read_all(run, caplog)
    assert not marker.exists()


@pytest.mark.parametrize("form", ["pickle", "torch", "old torch", "sound"])
def test_weights_in_another_form_than_safetensors_are_refused(
    run: Path, form: str, hostile: dict[str, bytes], marker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch
    from safetensors.torch import load_file

    sound = io.BytesIO()
    torch.save(load_file(run / STEP / "model.safetensors"), sound)
    (run / STEP / "model.safetensors").unlink()
    plant(run, f"{STEP}/pytorch_model.bin", {**hostile, "sound": sound.getvalue()}[form])
    said = read_all(run, caplog)
    assert "its weights are *.bin alone, pickles that can run code and are never read" in said
    assert "its model can't be loaded" in said
    assert not marker.exists()


def test_an_index_leads_to_no_pickle(
    run: Path, hostile: dict[str, bytes], marker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / STEP / "model.safetensors").unlink()
    plant(run, f"{STEP}/pytorch_model.bin", hostile["torch"])
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "pytorch_model.bin"}}
    plant(run, f"{STEP}/model.safetensors.index.json", json.dumps(index).encode())
    assert "half-written or damaged" in read_all(run, caplog)
    assert not marker.exists()


def test_code_that_a_checkpoint_brings_along_is_never_run(
    run: Path, marker: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the user is not asked whether to run it."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    code = f"import os\nos.mkdir({str(marker)!r})\n"
    plant(run, f"{STEP}/hostile.py", code.encode())
    changes = {
        "config.json": {
            "model_type": "hostile",
            "auto_map": {"AutoConfig": "hostile.C", "AutoModelForCausalLM": "hostile.M"},
        },
        "tokenizer_config.json": {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["hostile.T", "hostile.T"]}},
    }
    for name, change in changes.items():
        values = json.loads((run / STEP / name).read_text(encoding="utf-8"))
        plant(run, f"{STEP}/{name}", json.dumps(values | change).encode())
    said = read_all(run, caplog)
    for part in ("model", "tokenizer"):
        assert f"its {part} can't be loaded: it needs code of its own (auto_map), which is never run" in said
    assert not marker.exists()


def test_a_configuration_makes_no_python_objects(run: Path, marker: Path, caplog: pytest.LogCaptureFixture) -> None:
    tag = f"about: !!python/object/apply:os.mkdir ['{marker}']\n"
    yaml.unsafe_load(tag)
    marker.rmdir()
    plant(run, "config.yaml", tag.encode())
    assert "not YAML" in read_all(run, caplog)
    assert not marker.exists()


def test_a_mirror_s_hostile_files_are_fetched_and_never_run(
    run: Path, tmp_path: Path, hostile: dict[str, bytes], marker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / STEP / GROUPS).unlink()
    plant(run, f"{STEP}/groups.pickle", hostile["pickle"])
    plant(run, f"{STEP}/{STATE}/rng_0.pt", hostile["torch"])
    fetched = Mirror(run.as_uri()).fetch(tmp_path / "fetched")
    said = read_all(fetched.path, caplog)
    assert READ[f"{STEP}/groups.pickle"] in said
    assert READ[f"{STEP}/{STATE}/rng_0.pt"] in said
    assert not marker.exists()


def test_a_mirror_writes_nothing_outside_the_run_folder(run: Path, tmp_path: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    try:
        for file in run.rglob("*"):
            if file.is_file():
                store.pipe_file(f"/hostile/one/{file.relative_to(run).as_posix()}", file.read_bytes())
        store.store[f"/hostile/one/{STEP}/../../../../outside"] = store.store[f"/hostile/one/{STEP}/{FILE}"]
        with pytest.raises(MirrorError, match="outside"):
            Mirror("memory://hostile/one").fetch(tmp_path / "deep" / "er" / "fetched")
        assert not list(tmp_path.rglob("outside"))
    finally:
        store.rm("/hostile", recursive=True)
