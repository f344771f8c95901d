"""Learner memory: how much a rank holds at most while it trains on one large micro-batch, by vocabulary."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from actors.child_process import child_environment, python_command
from actors.errors import ExplainedError
from benchmarks.benches.figures import Figure, at_most
from benchmarks.benches.learner_model import learner_settings, make_trajectories, save_model

SMALL_VOCAB, LARGE_VOCAB = 1024, 50_000
MICRO_BATCH_TOKENS = 8192
TIMEOUT_S = 600.0
_MIB = 2**20


class MemoryBenchError(ExplainedError, RuntimeError):
    """The process that was to be measured failed; the message holds its output."""


def figures() -> list[Figure]:
    """Peak memory at both vocabularies, and their ratio."""
    small, large = (peak_in_process(vocab) for vocab in (SMALL_VOCAB, LARGE_VOCAB))
    where = f"peak memory, {MICRO_BATCH_TOKENS} tokens"
    return [
        Figure(f"{where}, vocabulary {SMALL_VOCAB}", small / _MIB, "MiB", "", None),
        Figure(f"{where}, vocabulary {LARGE_VOCAB}", large / _MIB, "MiB", "", None),
        at_most(f"{where}, vocabulary {LARGE_VOCAB} over {SMALL_VOCAB}", [large / small], "ratio", 1.3),
    ]


def peak_in_process(vocab: int) -> int:
    """`peak_bytes` in a process of its own.

    Raises:
        MemoryBenchError: the process failed, or was not done within `TIMEOUT_S`.
    """
    with tempfile.TemporaryDirectory(prefix="router-r1-bench-") as folder:
        save_model(Path(folder), vocab)
        command = python_command("-m", "benchmarks.benches.learner_memory", folder)
        try:
            env = child_environment()
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise MemoryBenchError(f"{' '.join(command)} was not done within {TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        raise MemoryBenchError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return int(done.stdout.split()[-1])


def peak_bytes(checkpoint: Path) -> int:
    """The most that a rank holds during an update on one micro-batch of `MICRO_BATCH_TOKENS`, to be called once.

    Model, gradients and optimizer state are part of it; what the process held once all was imported is not.
    """
    from torch.distributed import TCPStore

    from learner.batching import make_samples, pack, split_over_ranks
    from learner.losses.credit import assign_credit
    from learner.rank import LearnerRank

    settings = learner_settings(micro_batch_tokens=MICRO_BATCH_TOKENS)
    trajectories = make_trajectories()
    samples = make_samples(trajectories, assign_credit(trajectories, settings).values)
    fullest = pack(samples, MICRO_BATCH_TOKENS)[0]
    imported = _status_bytes("VmRSS")
    store = TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
    rank = LearnerRank(settings, checkpoint=checkpoint, temperature=1.0, rank=0, store=store)
    chunk = settings.logit_chunk(rank.vocabulary_size())
    for _ in range(2):  # the first makes the optimizer's state
        rank.train_step(split_over_ranks(fullest, 1, MICRO_BATCH_TOKENS, chunk))
    return _status_bytes("VmHWM") - imported


def _status_bytes(name: str) -> int:
    """A figure of this process; the kernel's own account, since `ru_maxrss` counts the parent's memory too."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise MemoryBenchError(f"/proc/self/status has no {name}; this needs Linux")


if __name__ == "__main__":
    sys.stdout.write(f"{peak_bytes(Path(sys.argv[1]))}\n")
