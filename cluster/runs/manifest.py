"""The manifest: what a run needs, besides the learner's state, to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.errors import ExplainedError
from actors.questions import Question
from cluster.config.settings import Config

FORMAT = 2
_READ = (1, FORMAT)  # formats that can be read; 1 differs only in the groups beside it, which were a pickle
FILE, STATE = "manifest.json", "state"

# Settings that may change when a run is resumed: how far and where it runs, what it keeps, shows and may spend.
_FREE = (
    "about", "run.steps", "run.folder", "run.name", "run.if_exists", "run.eval_every", "run.checkpoint_every",
    "run.keep_checkpoints", "run.trace", "run.mirror", "run.sample_trajectories", "run.rollout_timeout_s",
    "run.group_retries", "run.retry_pause_s", "run.max_refills", "run.stall_s",
    "episode.on_failed_call", "episode.timeout_retries", "episode.provider_error_retries", "episode.retry_pause_s",
    "candidates.unseen_cards", "candidates.pool", "candidates.faults", "candidates.latency_scale",
    "candidates.latency_lognormal", "placement",
    "tracking",
    "engine.start_timeout_s", "engine.turn_timeout_s", "engine.control_timeout_s", "engine.threads",
    "engine.gpu_memory_utilization", "engine.kv_cache_gib", "engine.tensor_parallel_size", "learner.threads",
    "learner.ranks", "learner.zero_stage", "learner.max_restarts", "learner.start_timeout_s",
    "learner.step_timeout_s", "learner.micro_batch_tokens", "learner.peak_tflops", "sft",
)  # fmt: skip
# Settings that can't change within a run: which parameters are trained, on which questions, in which order.
_FIXED = (
    "policy.checkpoint", "data.train", "data.train_limit", "data.two_hop_share", "run.seed", "run.groups_per_step",
    "run.group_size", "learner.lora", "learner.critic",
)  # fmt: skip


class ResumeError(ExplainedError, RuntimeError):
    """A run can't be resumed; the message says why, and the remedy."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Where a run stands after a step. The learner's state and finished groups of later steps lie beside it."""

    step: int  # batches trained, and the policy's version
    cursor: int  # questions drawn
    windows: dict[int, int]  # cursors where later steps begin whose questions were drawn already
    questions: str  # fingerprint of the training set
    judge: dict[str, Any]  # state of the reward
    spent_usd: dict[str, float]  # by card, so far; the ledger has the single calls
    elapsed_s: float
    summary: dict[str, Any] = field(default_factory=dict)  # entries of the run's summary so far
    files: dict[str, int] = field(default_factory=dict)  # bytes of each file beside it
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write the manifest into a new checkpoint, as its last file, because it lists the others."""
        listed = replace(self, files=_sizes(folder), format=FORMAT)
        (folder / FILE).write_text(json.dumps(asdict(listed), indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        ResumeError: there is none, it is damaged or of another format, or files of the checkpoint are missing.
    """
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        found = values.get("format")
        if found not in _READ:
            raise ResumeError(
                f"{folder / FILE} has format {found}, and this router-r1 reads {' and '.join(map(str, _READ))}; "
                "use the version that wrote it"
            )
        values["windows"] = {int(step): cursor for step, cursor in values["windows"].items()}
        manifest = Manifest(**values)
    except FileNotFoundError:
        raise ResumeError(
            f"{folder} holds no {FILE}, so a run can't go on from it; start one from its weights with "
            f"policy.checkpoint={folder}"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ResumeError(
            f"{folder / FILE} is damaged ({error}); remove {folder}, and the run goes on from the checkpoint before"
        ) from error
    if not (folder / STATE).is_dir():
        raise ResumeError(
            f"{folder} holds no learner state ({STATE}/): it was kept for its policy alone; go on from the newest"
        )
    there = _sizes(folder)
    wrong = [name for name, size in manifest.files.items() if there.get(name) != size]
    if wrong:
        raise ResumeError(
            f"{folder} is damaged: {', '.join(wrong[:3])} {'is' if len(wrong) == 1 else 'are'} missing or cut short, "
            f"as after a copy that was broken off; copy it again, or remove {folder} to use the checkpoint before"
        )
    return manifest


def _sizes(folder: Path) -> dict[str, int]:
    """The bytes of each file except the manifest, by its path in the folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / FILE]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(files)}


def fingerprint(questions: Sequence[Question]) -> str:
    """A digest of the questions, their answers and their order."""
    digest = hashlib.sha256()
    for question in questions:
        digest.update(json.dumps([question.id, question.text, *question.answers]).encode())
    return digest.hexdigest()[:32]


def check_same_run(before: Mapping[str, Any], config: Config, *, force: bool) -> None:
    """Compare the configuration that a run had with the one to resume it with; some settings may change.

    Args:
        before: the run's configuration, from `Config.dump`.
        force: allow differences that only change the course of learning, such as a reward or a learning rate.

    Raises:
        ResumeError: settings differ that must not; the message names all of them.
    """
    now = dict(_leaves("", config.dump()))
    # Settings added since then get their defaults; settings removed since then are reported as differences.
    with suppress(ValueError):
        before = type(config).model_validate(before).dump()
    then = dict(_leaves("", before))
    changed = [key for key in dict.fromkeys([*then, *now]) if then.get(key) != now.get(key) and not _within(key, _FREE)]
    fixed = [key for key in changed if _within(key, _FIXED)]
    if not changed or (force and not fixed):
        return
    lines = "\n".join(f"  {key}: {then.get(key)!r} then, {now.get(key)!r} now" for key in fixed or changed)
    remedy = "these can't change within a run; start another" if fixed else "set them back, or add --force to go on so"
    raise ResumeError(f"the run was started with another configuration:\n{lines}\n{remedy}")


def _within(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)


def _leaves(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value
