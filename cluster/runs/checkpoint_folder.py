"""Checkpoint folders: which one a path means, and whether it is complete."""

from __future__ import annotations

import json
from pathlib import Path

from actors.whole_files import is_unfinished
from cluster.runs.files import RunFolderError
from cluster.runs.folder import RunFolder


def resolve_checkpoint_folder(run_or_checkpoint: Path) -> tuple[Path, Path | None]:
    """The checkpoint folder that a path means, and the folder of its run, if any.

    The path of a run folder means its latest checkpoint.

    Raises:
        RunFolderError: there is no such folder, or it holds no complete checkpoint.
    """
    path = run_or_checkpoint
    if not path.exists():
        raise RunFolderError(f"{path}: no such folder; give a run folder (runs/NAME) or a checkpoint folder")
    if not path.is_dir():
        raise RunFolderError(f"{path}: is a file; give a run folder (runs/NAME) or a checkpoint folder")
    if is_unfinished(path):
        raise RunFolderError(f"{path}: was never finished; give the run folder, for its latest whole checkpoint")
    run = RunFolder(path)
    if run.config_file.is_file() or run.checkpoints_path.is_dir():
        latest = run.latest_checkpoint()
        if latest is None:
            raise RunFolderError(f"{path}: the run has no checkpoint yet; wait for one, or train it to its end")
        check_checkpoint(latest)
        return latest, path
    check_checkpoint(path)
    owner = path.absolute().parent.parent
    return path, owner if (owner / "config.yaml").is_file() else None


def check_checkpoint(path: Path) -> None:
    """Check that a folder holds a complete policy in Hugging Face form; of the weights only the sizes are checked.

    Raises:
        RunFolderError: config, weights or tokenizer are missing, or a weight file is cut short.
    """
    remedy = "copy it again, or give another checkpoint"
    if not (path / "config.json").is_file():
        raise RunFolderError(f"{path}: holds no config.json, so it is no checkpoint in Hugging Face form; {remedy}")
    try:
        names = {file.name for file in path.glob("*.safetensors")}
        index = path / "model.safetensors.index.json"
        if index.is_file():
            names |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for name in sorted(names):
            _check_safetensors(path / name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path}: half-written or damaged ({error}); {remedy}") from error
    if not names and any(path.glob("*.bin")):
        raise RunFolderError(
            f"{path}: its weights are *.bin alone, pickles that can run code and are never read; give a checkpoint "
            "with *.safetensors (`save_pretrained` of transformers writes them)"
        )
    if not names:
        raise RunFolderError(f"{path}: half-written, config.json without weights (*.safetensors); {remedy}")
    if not any(path.glob("tokenizer*")):
        raise RunFolderError(f"{path}: half-written, weights without a tokenizer; {remedy}")


def _check_safetensors(file: Path) -> None:
    """Compare a weight file's size with what its header promises (8 bytes of length, JSON, tensors)."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError(f"{file.name} is cut short within its header")
        header = json.loads(opened.read(length))
    end = max((row["data_offsets"][1] for name, row in header.items() if name != "__metadata__"), default=0)
    if file.stat().st_size != 8 + length + end:
        raise ValueError(f"{file.name} has {file.stat().st_size} bytes, its header promises {8 + length + end}")
