"""LoRA on the policy: adds adapters, the only part that is trained, and merges them into the policy's weights.

Hu et al. 2022 (arXiv 2106.09685), with peft: a layer W x becomes W x + (alpha / rank) B A x, with B = 0 at the start.
With the adapters off the model equals its checkpoint, so it serves as its own reference policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from learner.deepspeed_engine import gathered, whole_shape
from learner.settings import LoraSettings

_ADAPTER = "default"  # peft's name for a model's only adapter


def add_adapters(model: PreTrainedModel, settings: LoraSettings) -> None:
    """Put adapters into `model`, in place, and freeze all other parameters.

    Raises:
        ValueError: no module has a name among `settings.targets`.
    """
    dtype = model.get_input_embeddings().weight.dtype
    inject_adapter_in_model(_peft_config(settings), model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)  # peft makes adapters float32, but DeepSpeed needs one dtype


def _peft_config(settings: LoraSettings) -> LoraConfig:
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    return LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """Turn the model's adapters off within the context."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@dataclass(frozen=True)
class Weight:
    """A parameter of the policy under its name in the checkpoint, with its adapter if it has one."""

    name: str
    parameter: torch.nn.Parameter
    adapter: tuple[torch.nn.Parameter, torch.nn.Parameter, float] | None = None  # A, B and alpha / rank

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole parameter; under ZeRO-3 each rank has only a shard of it."""
        return whole_shape(self.parameter)

    @torch.no_grad()
    def whole(self) -> Tensor:
        """A new tensor with the value, adapter merged. Collective under ZeRO-3: all ranks gather it."""
        parts = [self.parameter] if self.adapter is None else [self.parameter, *self.adapter[:2]]
        with gathered(parts):
            if self.adapter is None:
                return self.parameter.detach().clone()
            a, b, scaling = self.adapter
            merged = self.parameter.float() + scaling * (b.float() @ a.float())
            return merged.to(self.parameter.dtype)


def weights(model: PreTrainedModel) -> list[Weight]:
    """The policy's parameters under the checkpoint's names, tied ones once; the model may have adapters or not."""
    adapters: dict[int, tuple[torch.nn.Parameter, torch.nn.Parameter, float]] = {}
    for module in model.modules():
        if isinstance(module, LoraLayer):
            a, b = module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight
            adapters[id(module.get_base_layer().weight)] = (a, b, float(module.scaling[_ADAPTER]))
    parts = {id(part) for a, b, _ in adapters.values() for part in (a, b)}
    return [
        Weight(name.replace(".base_layer.", "."), parameter, adapters.get(id(parameter)))
        for name, parameter in model.named_parameters()
        if id(parameter) not in parts
    ]


def save_adapter(model: PreTrainedModel, settings: LoraSettings, base: Path, directory: Path, *, leader: bool) -> None:
    """Write the adapter in peft's format, for `PeftModel.from_pretrained(base_model, directory)`; collective."""
    parts = [p for name, p in model.named_parameters() if "lora_" in name]
    with gathered(parts):
        if not leader:
            return
        state = {name: value.cpu().clone() for name, value in get_peft_model_state_dict(model).items()}
    directory.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"base_model.model.{name}": value for name, value in state.items()}, directory / "adapter_model.safetensors"
    )
    config = _peft_config(settings)
    config.base_model_name_or_path = str(base)
    config.inference_mode = True
    config.save_pretrained(str(directory))
