"""The names that vLLM, Ray and DeepSpeed keep private and that this product relies on all the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Private:
    """One name that a library keeps for itself."""

    module: str  # of the library
    name: str  # as it stands in our source, in one file
    form: str  # how it stands in the library's: a pattern of one line
    why: str


PRIVATE = [
    Private(
        "vllm.distributed.weight_transfer.factory",
        "_registry",
        r"    _registry: dict\[str, Callable\[\[\], type\[WeightTransferEngine\]\]\]",
        "a worker that imports our receiver twice must register it once",
    ),
    Private(
        "vllm.v1.worker.gpu_worker",
        "_weight_update_active",
        r"        self\._weight_update_active = False",
        "a weight update that nobody will finish is given up; vLLM would refuse the next",
    ),
    Private(
        "vllm.distributed.weight_transfer.base",
        "reset_weight_update_target",
        r"    def reset_weight_update_target\(self\)",
        "the same",
    ),
    Private(
        "vllm.v1.engine.utils",
        "get_mp_context",
        r" +context = get_mp_context\(\)",
        "engines are forked from our server; it is replaced in this module",
    ),
    Private(
        "vllm.model_executor.layers.utils",
        "cpu_linear",
        r" +layer\.cpu_linear = ",
        "shadow weights are exchanged with their packed copies",
    ),
    Private(
        "vllm.config.compilation",
        "static_forward_context",
        r"    static_forward_context: dict\[str, Any\]",
        "a shadow model must not enter its attention layers beside the engine's own",
    ),
    Private(
        "vllm.distributed.weight_transfer.nccl_engine",
        "_broadcast",
        r"    def _broadcast\(self, source: WeightSource, meta: list\[ParamMeta\]\)",
        "our NCCL sender waits for both sides at once, and broadcasts as vLLM's",
    ),
    Private(
        "vllm.distributed.weight_transfer.nccl_engine",
        "_post_send_sync",
        r"    def _post_send_sync\(self\)",
        "the same",
    ),
    Private(
        "vllm.distributed.weight_transfer.nccl_engine",
        "model_update_group",
        r"        self\.model_update_group: ",
        "the same",
    ),
    Private(
        "ray.job_config",
        "_py_driver_sys_path",
        r"            pb\.py_driver_sys_path\.extend\(self\._py_driver_sys_path\)",
        "workers must not look for packages in the user's working directory first",
    ),
    Private("ray.job_config", "_get_proto_job_config", r"    def _get_proto_job_config\(self\)", "the same"),
    Private(
        "ray._private.worker",
        "_node_ip_address",
        r'.*"_node_ip_address"',
        "a bench's Ray listens on loopback only",
    ),
    Private(
        "ray._private.node",
        "timed out during startup",
        r'.*"The current node timed out during startup',
        "Ray has no class for the error of a start that took too long, and it is then started again",
    ),
    Private(
        "ray.serve._private.constants",
        "SERVE_CONTROLLER_NAME",
        r"SERVE_CONTROLLER_NAME = ",
        "a cluster that runs Serve already can't take our address",
    ),
    Private("ray.serve._private.constants", "SERVE_NAMESPACE", r"SERVE_NAMESPACE = ", "the same"),
    Private(
        "ray.dashboard.modules.dashboard_sdk",
        "_do_request",
        r"    def _do_request\($",
        "requests to a job server get deadlines",
    ),
    Private(
        "deepspeed.ops",
        "__compatible_ops__",
        r'        globals\(\)\["__compatible_ops__"\] = ',
        "an empty table keeps DeepSpeed from compiling",
    ),
    Private(
        "deepspeed.runtime.zero.muon.muon_optimizer",
        "deepspeed.runtime.zero.muon.muon_optimizer",
        r"class MuonWithAuxAdam",
        "imported before torch.compile is on again",
    ),
    Private(
        "deepspeed.runtime.engine",
        "basic_optimizer",
        r"        self\.basic_optimizer = basic_optimizer",
        "the learning rate and AdamW's moments are set there",
    ),
    Private("deepspeed.runtime.zero.partition_parameters", "ds_id", r" +param\.ds_id = ", "ZeRO 3's mark"),
    Private("deepspeed.runtime.zero.partition_parameters", "ds_shape", r" +param\.ds_shape = ", "the whole shape"),
    Private("deepspeed.runtime.zero.partition_parameters", "ds_tensor", r" +param\.ds_tensor = ", "a rank's shard"),
    Private("deepspeed.utils.mixed_precision_linkage", "_hp_mapping", r" +lp_param\._hp_mapping = ", "ZeRO 1 and 2's"),
    Private(
        "deepspeed.runtime.zero.stage3",
        "fp32_partitioned_groups_flat",
        r"        self\.fp32_partitioned_groups_flat = \[\]",
        "what AdamW steps under ZeRO 3",
    ),
    Private(
        "deepspeed.runtime.zero.stage_1_and_2",
        "single_partition_of_fp32_groups",
        r"        self\.single_partition_of_fp32_groups = \[\]",
        "what AdamW steps under ZeRO 1 and 2",
    ),
    Private(
        "deepspeed.runtime.bf16_optimizer",
        "fp32_groups_flat_partition",
        r"        self\.fp32_groups_flat_partition = \[\]",
        "what AdamW steps in bfloat16",
    ),
    Private(
        "deepspeed.runtime.zero.stage_1_and_2",
        "_lazy_init_hp_params_optimizer_state",
        r"    def _lazy_init_hp_params_optimizer_state\(self\)",
        "moments that are loaded before the first step are found through its links",
    ),
]
# Private names of the standard library, of torch and of SQLAlchemy (whose `_mapping` and os's `_exit` are documented).
OTHERS = {
    "_asdict",
    "_exit",
    "_forkserver",
    "_forkserver_pid",
    "_resource_tracker",
    "_pid",
    "_Options",
    "_devices",
    "_mapping",
}
