"""Checkpoints on disk: directories that appear complete or not at all, and the policy in Hugging Face format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from actors.whole_files import put_in_place, stage_of
from learner.lora import weights

# The tokenizer's files in a Hugging Face checkpoint; `save_pretrained` writes all other files.
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
    "*.jinja",
)


@contextmanager
def staged(path: Path, *, leader: bool, barrier: Callable[[], None]) -> Iterator[Path]:
    """A directory beside `path` that every rank fills and the leader then renames to `path`.

    So `path` is complete or absent, whenever the process dies; an older `path` is replaced. If a rank fails, the
    unfinished directory is removed. The parent directory of `path` must exist.
    """
    stage = stage_of(path)
    if leader:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()  # not its parents: the driver removes the parent to give a checkpoint up
    barrier()
    try:
        yield stage
        barrier()
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    if leader:
        put_in_place(stage, path)  # the checkpoint of the run that this is a part of is synced as a whole
    barrier()


def whole_state(model: PreTrainedModel, *, keep: bool) -> dict[str, Tensor]:
    """The model's parameters and persistent buffers on CPU, tied parameters once, with adapters merged.

    Under ZeRO-3 every rank must call this; parameters are gathered one at a time. Ranks with `keep` false take part
    and return an empty dictionary.
    """
    state: dict[str, Tensor] = {}
    for weight in weights(model):
        value = weight.whole()
        if keep:
            state[weight.name] = value.cpu()
    if keep:
        state |= {name: value.cpu().clone() for name, value in model.named_buffers() if name in model.state_dict()}
    return state


def write_pretrained(model: PreTrainedModel, state: dict[str, Tensor], source: Path, directory: Path) -> None:
    """Write config, safetensors and `source`'s tokenizer files; transformers and vLLM can load the directory."""
    model.save_pretrained(directory, state_dict=state)
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copy2(file, directory / file.name)


def save_rng_state(file: Path, device: torch.device) -> None:
    """Write torch's random state of the CPU, and of the GPU if `device` is one."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    torch.save(state, file)


def load_rng_state(file: Path, device: torch.device) -> None:
    """Take up the random state that `save_rng_state` wrote.

    Raises:
        ValueError: the file holds something else.
    """
    with reading(file):
        state = torch.load(file, map_location="cpu", weights_only=True)  # tensors alone: a whole pickle can run code
        torch.set_rng_state(state["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], device)


def read_facts(file: Path) -> dict[str, Any]:
    """The content of a JSON file of a learner's state.

    Raises:
        ValueError: the file holds something else.
    """
    with reading(file):
        return dict(json.loads(file.read_text(encoding="utf-8")))


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Within it a file of a learner's state is read.

    Raises:
        ValueError: in place of the reader's own error.
    """
    try:
        yield
    except Exception as error:  # pickle, safetensors and JSON each have errors of their own
        raise ValueError(
            f"{file} is missing, damaged or not router-r1's ({type(error).__name__}); copy the checkpoint again, or "
            "remove it to use the checkpoint before"
        ) from error
