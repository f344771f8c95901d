"""Checkpoints on disk: whole directories that appear at once, and the policy in Hugging Face format."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from actors.whole_files import put_in_place, stage_of
from learner.lora import weights

# What belongs to the tokenizer in a Hugging Face checkpoint; the rest is weights and what the model writes itself.
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
    """A directory beside `path` that every rank fills, and that the leader then renames to `path`.

    `path` is thus whole or absent, whenever the process dies; one that was there before is replaced. Where a
    rank fails to fill it, the unfinished directory is removed. The directory that `path` is to be in must be there.
    """
    stage = stage_of(path)
    if leader:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()  # without its parents: where whoever asked for it has given it up, it stays away
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
    """The model's parameters and persistent buffers on CPU, one tensor for tied ones.

    Adapters are merged. Under ZeRO-3 every rank must call it; parameters are gathered one at a time. Ranks with
    `keep` false take part and return nothing.
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
    """Write config, safetensors and `source`'s tokenizer files, for transformers and vLLM to load as they are."""
    model.save_pretrained(directory, state_dict=state)
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copy2(file, directory / file.name)


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """Torch's random state, of the CPU and of the GPU if there is one."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Set what `rng_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
