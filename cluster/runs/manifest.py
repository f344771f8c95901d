"""The manifest: what a run must know, beside the learner's own state, to go on as if it had never stopped."""

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
_READ = (1, FORMAT)  # in 1, groups lay beside it as a pickle; the rest was as it is
FILE, STATE = "manifest.json", "state"

# What may be set anew when a run goes on: how far it goes, where it runs, what is kept and shown, what may be spent.
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
# What makes the run another one: its trained parameters, its questions, or which of them come when.
_FIXED = (
    "policy.checkpoint", "data.train", "data.train_limit", "data.two_hop_share", "run.seed", "run.groups_per_step",
    "run.group_size", "learner.lora", "learner.critic",
)  # fmt: skip


class ResumeError(ExplainedError, RuntimeError):
    """A run can't go on as asked; the message names the difference and the remedy."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Where a run stands after a step. The learner's state and finished groups of later steps lie beside it."""

    step: int  # batches trained, and the policy's version
    cursor: int  # questions drawn
    windows: dict[int, int]  # steps whose questions were drawn and not yet trained on: cursor where each begins
    questions: str  # fingerprint of the training set
    judge: dict[str, Any]  # state of the reward
    spent_usd: dict[str, float]  # by card, so far; the ledger says it to the call
    elapsed_s: float
    summary: dict[str, Any] = field(default_factory=dict)  # of before training and of all steps so far
    files: dict[str, int] = field(default_factory=dict)  # what lies beside it, and its bytes
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write it into a checkpoint that is being made, as the last of its files."""
        listed = replace(self, files=_sizes(folder), format=FORMAT)
        (folder / FILE).write_text(json.dumps(asdict(listed), indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        ResumeError: there is none, it is damaged, or of another format.
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
    """The bytes of each file, by its path in the folder, less the manifest's own."""
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / FILE]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(files)}


def fingerprint(questions: Sequence[Question]) -> str:
    """A digest of the questions, their answers and their order."""
    digest = hashlib.sha256()
    for question in questions:
        digest.update(json.dumps([question.id, question.text, *question.answers]).encode())
    return digest.hexdigest()[:32]


def check_same_run(before: Mapping[str, Any], config: Config, *, force: bool) -> None:
    """Compare the configuration that a run had with the one to go on with; some of it may change.

    Args:
        before: what `Config.dump` gave.
        force: let what only changes the course of learning differ, such as a reward or a learning rate.

    Raises:
        ResumeError: it differs where it must not; every difference is named.
    """
    now = dict(_leaves("", config.dump()))
    with suppress(ValueError):  # a setting that came with a later version had its default; one that went tells itself
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
