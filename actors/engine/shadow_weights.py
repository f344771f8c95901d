"""Shadow weights: a second set of a CPU engine's weights, filled while the engine generates, then exchanged.

On CPU vLLM multiplies by packed copies of the weights, and packing takes longer than copying. So the new weights are
packed in a second model while the engine generates. The exchange only swaps pointers, so the engine's pause is short.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.utils import initialize_model, process_weights_after_loading
from vllm.utils.torch_utils import set_default_torch_dtype

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_PACKED = "cpu_linear"  # the attribute in which vLLM keeps a layer's packed weight


class ShadowWeights:
    """The next weights, in a second model built like `live`. It takes as much memory as the engine's weights."""

    def __init__(self, live: torch.nn.Module, vllm_config: VllmConfig) -> None:
        """Build the second model; its first weights are meaningless.

        Raises:
            ValueError: the model has layers whose processed weights `exchange` can't swap.
        """
        strange = {
            type(method).__name__
            for layer in live.modules()
            if isinstance(method := getattr(layer, "quant_method", None), QuantizeMethodBase)
            and not isinstance(method, UnquantizedLinearMethod | UnquantizedEmbeddingMethod)
        }
        if strange:
            raise ValueError(
                f"{type(live).__name__} has layers of {', '.join(sorted(strange))}, which weight sync between CPUs "
                "can't exchange; train a dense model without quantisation, or set engine.device=cuda"
            )
        self._live = live
        self._model_config = vllm_config.model_config
        config = copy.copy(vllm_config)
        # Attention layers register themselves here by name, and the engine's own layers hold these names already.
        config.compilation_config = copy.copy(vllm_config.compilation_config)
        config.compilation_config.static_forward_context = {}
        with set_default_torch_dtype(self._model_config.dtype):
            self.model = initialize_model(config)
        _leave_out_shared(self.model, live)
        self._names = {name for name, _ in self.model.named_parameters()}
        # A layerwise reload needs a model that has been loaded once.
        process_weights_after_loading(self.model, self._model_config, torch.device("cpu"))
        self._loaded: set[str] = set()

    @torch.no_grad()
    def start(self) -> None:
        """Prepare for `load`."""
        self._loaded = set()
        initialize_layerwise_reload(self.model)

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Load tensors, named as in the checkpoint; each layer is packed once it is complete.

        The tensors must not change until `finish`.
        """
        self._loaded |= self.model.load_weights(weights)

    @torch.no_grad()
    def finish(self) -> None:
        """End the loading and pack the remaining layers.

        Raises:
            ValueError: a parameter received no weights.
        """
        finalize_layerwise_reload(self.model, self._model_config)
        if missing := self._names - self._loaded:
            raise ValueError(
                f"the learner sent no weights for {len(missing)} of {len(self._names)} parameters, such as "
                f"{min(missing)}; start engines and learner from the same checkpoint"
            )
        pack_tied_heads(self.model)

    def exchange(self) -> None:
        """Swap these weights with the engine's. The engine must be paused."""
        done: set[int] = set()
        for path, shadow in self.model.named_modules():
            layer = self._live.get_submodule(path)
            for name, other in shadow.named_parameters(recurse=False):
                if id(other) not in done:  # tied parameters appear twice
                    done.add(id(other))
                    parameter = layer.get_parameter(name)
                    parameter.data, other.data = other.data, parameter.data
            if hasattr(shadow, _PACKED):
                ours, theirs = getattr(shadow, _PACKED), getattr(layer, _PACKED)
                setattr(layer, _PACKED, ours)
                setattr(shadow, _PACKED, theirs)


def _leave_out_shared(model: torch.nn.Module, live: torch.nn.Module) -> None:
    """Replace the layers that `model` shares with `live` by identities, because a reload takes layers apart.

    vLLM makes one rotary embedding for all layers with the same settings; it has no weights.
    """
    shared = set(live.modules())
    for parent in [module for module in model.modules() if module not in shared]:
        for name, child in parent.named_children():
            if child in shared:
                setattr(parent, name, torch.nn.Identity())


def pack_tied_heads(model: torch.nn.Module) -> None:
    """Repack every output head that shares its weight with the embedding.

    A layerwise reload packs each layer that receives weights. A tied head receives none: its parameter is the
    embedding's and already new, but its packed copy still holds the old weight.
    """
    layers_of: dict[int, list[VocabParallelEmbedding]] = {}
    for layer in model.modules():
        if isinstance(layer, VocabParallelEmbedding):
            layers_of.setdefault(id(layer.weight), []).append(layer)
    for layers in layers_of.values():
        for layer in layers if len(layers) > 1 else ():
            layer.quant_method.process_weights_after_loading(layer)
