"""DeepSpeed as the learner uses it: its import, its configuration, and a module under its engine.

ZeRO leaves marks on parameters and optimizers, for which it has no public names. Only this file reads them.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from learner.settings import LearnerSettings, OptimizerSettings

# Where the optimizers of ZeRO 3, of ZeRO 1 and 2, and that of bfloat16 keep this rank's float32 shards.
_MASTERS = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")


def import_deepspeed(device: str) -> Any:  # the module; its stubs are not followed
    """Import DeepSpeed for `device` so that it compiles nothing and looks for no compiler.

    By default DeepSpeed on CPU compiles a C++ shared-memory op when torch.distributed starts, but only inference needs
    this op. An empty table of compatible ops prevents that and the search for compilers.
    """
    os.environ["DS_ACCELERATOR"] = device
    with _compiler_off():
        import deepspeed
        import deepspeed.runtime.zero.muon.muon_optimizer  # unused, but the engine would import it with the compiler on

    deepspeed.ops.__compatible_ops__ = {}
    # At every step DeepSpeed calls torch collectives by names that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    transformers.utils.logging.disable_progress_bar()
    return deepspeed


@contextmanager
def _compiler_off() -> Iterator[None]:
    """Disable torch.compile within the context. For DeepSpeed's functions it would load all of Inductor, for 5 s."""
    name = "TORCHDYNAMO_DISABLE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


def deepspeed_config(settings: LearnerSettings, optimizer: OptimizerSettings, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration. Bucket sizes are capped at the module's number of `parameters`.

    DeepSpeed's default of 5e8 elements would allocate 2 GB per rank for any model. `settings.deepspeed` comes last and
    may replace such sizes; `check_deepspeed_options` refuses options that contradict the recipe.
    """
    zero: dict[str, Any] = {"stage": settings.zero_stage, "overlap_comm": settings.device == "cuda"}
    bucket = min(int(5e8), parameters + parameters % 2)  # ZeRO 1 and 2 need an even size
    zero |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if settings.zero_stage == 3:
        zero["stage3_prefetch_bucket_size"] = min(int(5e7), bucket)
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    params = {
        "lr": optimizer.lr,
        "betas": list(optimizer.betas),
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
        "torch_adam": True,
    }
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # not fixed: the rank marks each step's last micro-batch itself
        "gradient_clipping": settings.max_grad_norm,
        "zero_optimization": zero | settings.deepspeed.get("zero_optimization", {}),
        "optimizer": {"type": "AdamW", "params": params},
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own optimizer would have to be compiled
    }
    if settings.dtype == "bfloat16":
        # By default the ranks would sum their gradients in bfloat16.
        sums = {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}
        config |= {"bf16": {"enabled": True}} | sums
    return config | {name: value for name, value in settings.deepspeed.items() if name != "zero_optimization"}


@contextmanager
def gathered(parameters: Sequence[nn.Parameter], *, modify: bool = False) -> Iterator[None]:
    """Makes the parameters whole on every rank within the context. Collective under ZeRO-3; otherwise does nothing.

    With `modify`, all ranks get what rank 0 writes into the parameters.
    """
    import deepspeed

    enabled = any(map(partitioned, parameters))
    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0 if modify else None, enabled=enabled):
        yield


def partitioned(parameter: nn.Parameter) -> bool:
    """Whether ZeRO 3 has cut it up: no rank holds it whole."""
    return hasattr(parameter, "ds_id")


def has_shards(parameter: nn.Parameter) -> bool:
    """Whether any ZeRO stage has cut up its float32 value and moments."""
    return partitioned(parameter) or hasattr(parameter, "_hp_mapping")


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The shape of the whole parameter, also of one that no rank holds whole."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def shard_of(parameter: Any, value: Tensor) -> Tensor:
    """This rank's part of a value of a partitioned parameter; ZeRO pads values to equal parts."""
    length = parameter.ds_tensor.numel()
    padded = value.new_zeros(length * torch.distributed.get_world_size())
    padded[: value.numel()] = value.flatten()
    return padded.narrow(0, length * torch.distributed.get_rank(), length)


def master_shards(optimizer: Any) -> list[Tensor] | None:
    """The float32 shards that DeepSpeed's optimizer steps on this rank; None without ZeRO."""
    return next((list(getattr(optimizer, name)) for name in _MASTERS if hasattr(optimizer, name)), None)


def link_moments(optimizer: Any) -> None:
    """Let ZeRO 1 and 2 find each parameter's moments, through links that the first step would make."""
    link = getattr(optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()


class TrainedModule:
    """A module under DeepSpeed: gradients of micro-batches add up, then a step uses or drops them.

    All ranks must make the same calls.
    """

    def __init__(self, module: nn.Module, settings: LearnerSettings, optimizer: OptimizerSettings) -> None:
        """Hand `module` to DeepSpeed; only parameters that require a gradient are trained."""
        self._settings, self._optimizer = settings, optimizer
        self.module = module
        trained = [p for p in module.parameters() if p.requires_grad]
        config = deepspeed_config(settings, optimizer, sum(p.numel() for p in module.parameters()))
        deepspeed = import_deepspeed(settings.device)
        self.engine, *_ = deepspeed.initialize(model=module, model_parameters=trained, config=config)
        self.engine.train()
        self.steps = 0  # optimizer steps taken: the whole state of the schedule
        self.lr_share = 1.0  # factor on the schedule's rate, for the next step

    @property
    def adamw(self) -> torch.optim.Optimizer:
        """The optimizer itself, which DeepSpeed's own wraps."""
        return self.engine.basic_optimizer  # type: ignore[no-any-return]

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self._optimizer.lr * self._optimizer.lr_factor(self.steps) * self.lr_share

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of one micro-batch's part of the loss; `last` marks the last one before `step`."""
        self.engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages gradients over ranks, but this loss is one rank's part of a sum.
        self.engine.backward(loss * self._settings.ranks)

    def drop(self, scores: Tensor) -> None:
        """Call in place of the last `backward` to make `step` drop all gradients; the loss was computed from `scores`.

        The gradient of NaN times `scores` is NaN, and then no step is taken at any ZeRO stage, dtype or offload. NaN
        times the loss would not do: if every token is clipped, the loss has a gradient of 0.
        """
        self.backward(scores.sum() * math.nan, last=True)

    def step(self) -> float:
        """Take the optimizer step; return the global gradient norm before clipping.

        If the norm is not finite, no step is taken: parameters and optimizer stay as they were.
        """
        for group in self.adamw.param_groups:
            group["lr"] = self.lr
        if self._settings.zero_stage == 0:
            norm = self._whole_grad_norm()
            if not math.isfinite(norm):
                self.engine.zero_grad()
                return norm
            self.engine.step()
        else:  # ZeRO checks the norm itself, and drops the gradients if it is not finite
            self.engine.step()
            if not self.engine.was_step_applied():
                return math.nan
            norm = float(self.engine.get_global_grad_norm())
        self.steps += 1
        return norm

    def _whole_grad_norm(self) -> float:
        grads = [p.grad for p in self.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))
