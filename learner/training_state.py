"""The training state of a module on disk: whole parameters and AdamW moments in float32, under their names.

It does not depend on the number of ranks or the ZeRO stage that wrote it, so any gang can load it. DeepSpeed's own
checkpoints contain each rank's shards and must be converted before another gang can load them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from learner.checkpoint import read_facts, reading
from learner.deepspeed_engine import (
    TrainedModule,
    gathered,
    has_shards,
    link_moments,
    master_shards,
    partitioned,
    shard_of,
    whole_shape,
)

_MOMENTS = ("exp_avg", "exp_avg_sq")
_VALUE = "value"
_FILE_BYTES = 2**30  # about the extra memory that rank 0 needs while it writes


def save_module(trained: TrainedModule, directory: Path, name: str, *, leader: bool) -> None:
    """Write `trained` into `directory` as `name`.json and safetensors files; collective, but only the leader writes."""
    _ensure_moments(trained)
    shapes: dict[str, list[int]] = {}
    files: dict[str, str] = {}
    pending: dict[str, Tensor] = {}

    def flush() -> None:
        file = f"{name}-{len(set(files.values())):05d}.safetensors"
        save_file(pending, directory / file)
        files.update(dict.fromkeys(pending, file))
        pending.clear()

    for parameter_name, parameter in _trained_parameters(trained.module):
        shapes[parameter_name] = _shape(parameter)
        for part in (_VALUE, *_MOMENTS):
            value = _read(trained, parameter, part)
            if leader:
                pending[f"{parameter_name}/{part}"] = value.detach().cpu().float().clone()
        if sum(t.nbytes for t in pending.values()) >= _FILE_BYTES:
            flush()
    if leader:
        flush()
        facts = {"steps": trained.steps, "shapes": shapes, "files": files}
        (directory / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")


def load_module(trained: TrainedModule, directory: Path, name: str) -> None:
    """Load a state that `save_module` wrote; collective.

    Raises:
        ValueError: the saved module is damaged or has other parameters; the message names the first that differ.
    """
    facts = read_facts(directory / f"{name}.json")
    check_shapes(facts["shapes"], {n: _shape(p) for n, p in _trained_parameters(trained.module)}, directory, name)
    _ensure_moments(trained)
    tensor = _reader(directory, facts["files"])
    for parameter_name, parameter in _trained_parameters(trained.module):
        for part in (_VALUE, *_MOMENTS):
            _write(trained, parameter, part, tensor(f"{parameter_name}/{part}").to(parameter.device))
    trained.steps = facts["steps"]
    for master in _masters(trained):
        trained.adamw.state[master]["step"].fill_(trained.steps)


def check_shapes(
    saved: dict[str, list[int]], present: dict[str, list[int]], directory: Path, name: str, most: int = 3
) -> None:
    """Compare a saved module's parameters with this module's, by name and shape.

    Raises:
        ValueError: they differ; the message names the first `most` differences.
    """
    differences = [
        f"{parameter} is {saved.get(parameter, 'absent')} there and {present.get(parameter, 'absent')} here"
        for parameter in dict.fromkeys([*saved, *present])
        if saved.get(parameter) != present.get(parameter)
    ]
    if differences:
        more = f", and {len(differences) - most} more" if len(differences) > most else ""
        raise ValueError(
            f"learner state {directory}: its {name} is another model: {'; '.join(differences[:most])}{more}. "
            "Resume with the checkpoint, critic and LoRA settings that it was trained from"
        )


def _reader(directory: Path, files: dict[str, str]) -> Callable[[str], Tensor]:
    opened: dict[Path, Any] = {}  # memory-mapped: a tensor is read only when it is needed

    def tensor(key: str) -> Tensor:
        file = directory / files[key]
        with reading(file):
            if file not in opened:
                opened[file] = safe_open(file, framework="pt")
            return opened[file].get_tensor(key)

    return tensor


def _trained_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def _shape(parameter: nn.Parameter) -> list[int]:
    return list(whole_shape(parameter))


def _masters(trained: TrainedModule) -> list[Tensor]:
    """The tensors that this rank's AdamW updates: float32 shards under ZeRO, else the parameters."""
    if (shards := master_shards(trained.engine.optimizer)) is not None:
        return shards
    return [parameter for _, parameter in _trained_parameters(trained.module)]


def _ensure_moments(trained: TrainedModule) -> None:
    """Create AdamW's moments, as 0, if it has not created them yet in a first step."""
    state = trained.adamw.state
    for master in _masters(trained):
        if not state.get(master):
            state[master] = {"step": torch.tensor(0.0)} | {name: torch.zeros_like(master) for name in _MOMENTS}
    link_moments(trained.engine.optimizer)


def _read(trained: TrainedModule, parameter: nn.Parameter, part: str) -> Tensor:
    """A parameter's whole float32 value or moment; collective under ZeRO."""
    if has_shards(parameter):
        if part == _VALUE:
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, part)
    return parameter if part == _VALUE else trained.adamw.state[parameter][part]


@torch.no_grad()
def _write(trained: TrainedModule, parameter: nn.Parameter, part: str, value: Tensor) -> None:
    """The inverse of `_read`."""
    if partitioned(parameter):
        shard = shard_of(parameter, value)
        if part == _VALUE:
            safe_set_local_fp32_param(parameter, shard)
        else:
            safe_set_local_optimizer_state(parameter, shard, part)
    elif has_shards(parameter):
        if part == _VALUE:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, part)
    elif part != _VALUE:
        trained.adamw.state[parameter][part].copy_(value)
    if part == _VALUE:  # also set the copy that the forward pass reads
        with gathered([parameter], modify=True):
            parameter.copy_(value)
