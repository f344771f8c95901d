"""vLLM's arguments, environment variables and sampling parameters for a policy engine."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actors.child_process import child_variables
from actors.engine.orphans import OWNER_VARIABLE
from actors.settings import EngineSettings, SamplingSettings

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import SamplingParams

# Small blocks let short episodes share and reuse prefixes. vLLM's default on CPU is 128 tokens, and its CPU
# attention needs a multiple of 32.
_CPU_BLOCK_TOKENS = 32
_CPU_BATCH_TOKENS = 2048  # most tokens of one step, unless an episode may be longer


def engine_arguments(
    model: str, settings: EngineSettings, *, seed: int, weight_backend: Literal["gloo", "nccl"]
) -> AsyncEngineArgs:
    """The engine's arguments; `model` is a checkpoint folder."""
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    on_cpu: dict[str, Any] = {
        "block_size": _CPU_BLOCK_TOKENS,
        "kv_cache_memory_bytes": int(settings.kv_cache_gib * 2**30),
        # A chunked prefill kills a CPU engine if the request has a seed: after the first chunk vLLM rewinds the
        # request's random generator, and CPU generators can't be rewound.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(_CPU_BATCH_TOKENS, settings.max_model_len),
    }
    on_gpu: dict[str, Any] = {
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
    }
    return AsyncEngineArgs(
        model=model,
        load_format="safetensors",  # never a .bin, which is a pickle
        trust_remote_code=False,
        dtype=settings.dtype,
        seed=seed,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        enforce_eager=settings.enforce_eager,
        enable_prefix_caching=True,
        logprobs_mode="processed_logprobs",
        # A checkpoint's generation_config would otherwise change how the policy samples.
        generation_config="vllm",
        weight_transfer_config=WeightTransferConfig(backend=weight_backend),
        worker_extension_cls="actors.engine.weight_receiver.WorkerExtension",
        disable_log_stats=True,
        use_tqdm_on_load=False,
        **(on_cpu if settings.device == "cpu" else on_gpu),
    )


def engine_variables(settings: EngineSettings, scratch: Path) -> dict[str, str]:
    """Environment variables of the engine's processes, which put their temporary files into the folder `scratch`."""
    compiled = f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}"  # torch's default, which outlives `scratch`
    variables = child_variables() | {
        "TMPDIR": str(scratch),
        "VLLM_RPC_BASE_PATH": str(scratch),
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", compiled),
        OWNER_VARIABLE: str(os.getpid()),
        "VLLM_ENGINE_READY_TIMEOUT_S": str(max(1, int(settings.start_timeout_s))),
        "VLLM_NO_USAGE_STATS": "1",
    }
    if settings.device == "cpu":
        variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        variables["OMP_NUM_THREADS"] = str(settings.threads)
        variables["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "passive")  # no spinning: cores are shared
        # Otherwise each server's first engine compiles the function that computes a token's rank: ten CPU seconds for
        # a number that nobody reads. The model itself runs eagerly in any case.
        variables["TORCHDYNAMO_DISABLE"] = "1"
        # Otherwise vLLM's engine core starts another process for its one worker, to bind that worker's threads to
        # cores. That doubles the time to start, and the two processes then poll for each other's messages. The core
        # remains a process of its own.
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return variables


def sampling_params(
    max_tokens: int, stop: list[str], sampling: SamplingSettings, seed: int | None, *, streaming: bool
) -> SamplingParams:
    """Parameters for one turn: its text includes special tokens and the stop string; each token has a log-probability.

    `streaming`: return the text piece by piece, not once at the end.
    """
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        max_tokens=max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=seed,
        stop=stop,
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        logprobs=0,
        flat_logprobs=True,
        output_kind=RequestOutputKind.DELTA if streaming else RequestOutputKind.FINAL_ONLY,
    )
